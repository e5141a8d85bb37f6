"""Records out of bytes, one module a format. Pure: chunks are pushed in and records come out."""
