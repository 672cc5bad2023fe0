"""The commands, a module each; ``jobmeter.cli`` gives them their names."""
