"""What is computed faster on a CPU; each kernel equals a reference and knows torch only."""
