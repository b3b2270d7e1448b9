"""Do images of one person still resemble each other?"""
