"""How far is an image from the truth?"""
