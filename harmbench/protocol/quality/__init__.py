"""Do the images look like images of the reference site?"""
