"""Reading finished runs, their statistics, pictures and reports."""
