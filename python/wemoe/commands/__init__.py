"""The commands of `wemoe`, one file each: a function of the command's name, which imports what is slow when it runs."""
