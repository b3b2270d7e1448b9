"""Are age, sex and group effects kept?"""
