"""What an archive costs: rates from committed measurements, a simulated queue, and the tables of docs/scale.md."""
