"""How much less than the best order of vertices other eliminations take: edges and faces."""
