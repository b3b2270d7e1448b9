"""Is the site still visible?"""
