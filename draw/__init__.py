"""Pictures and pages that a browser shows without loading anything: inline SVG, one file of HTML."""
