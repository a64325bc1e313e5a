"""Why states lag: step size, local model error, accumulation, or off the path."""
