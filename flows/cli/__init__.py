"""The commands of `tuneline`, one file each. Every heavy import is inside the command that needs it."""
