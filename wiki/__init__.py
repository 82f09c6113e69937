"""Wikipedia: its pages, its markup, and what a sentence asserts."""
