"""The rules that choose what is remembered, one file each; the file's name is the rule's."""
