"""What happens in a round: who is asked, which updates count, how they are averaged and what is kept of it."""
