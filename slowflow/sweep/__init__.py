"""What a study says: its tables, intervals over seeds, regret, and the chance of a wrong pick. NumPy and pandas, no torch."""
