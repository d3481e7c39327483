"""The lessons: scripts from which the pages of the site and the notebooks of ``noisestep learn`` are made."""
