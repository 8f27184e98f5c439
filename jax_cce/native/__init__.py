"""Native: small programs as scalar graphs, eliminated there and compiled to machine code."""
