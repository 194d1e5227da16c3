"""The workbench: a web page to click, train, pick, review and export, served to one person."""
