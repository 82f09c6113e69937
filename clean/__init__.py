"""What happens to texts of others before they are used."""
