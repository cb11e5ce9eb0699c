"""What is wrong with rows that can be read, alone and beside others, and what can be repaired safely."""
