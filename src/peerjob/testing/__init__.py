"""What tests of jobs, nodes and stores are made of."""
