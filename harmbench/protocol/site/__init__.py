"""Is the site still visible in the images?"""
