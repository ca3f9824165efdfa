"""What people read of runs and nets: tables, pictures, re-checks, robustness, diagnosis."""
