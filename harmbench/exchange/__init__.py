"""Images that leave the suite and come back: folders for, and from, programs outside."""
