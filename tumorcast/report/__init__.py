"""Pictures, HTML pages and reader studies."""
