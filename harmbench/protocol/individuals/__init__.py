"""Do the images of a subject still resemble each other?"""
