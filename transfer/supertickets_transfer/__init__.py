"""Move tickets between tasks and data sets."""
