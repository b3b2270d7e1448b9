"""Are the effects of age and sex kept?"""
