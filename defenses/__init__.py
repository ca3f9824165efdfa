"""Defences: one file each; an attack reaches a defence as an argument. There is none yet."""
