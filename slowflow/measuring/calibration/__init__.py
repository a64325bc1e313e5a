"""Are the measures usable here? Genuine states, perfect models and planted effects at the user's own d, data and n."""
