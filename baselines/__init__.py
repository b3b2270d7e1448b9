"""The methods that the suite compares with, and the controls."""
