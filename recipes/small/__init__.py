"""The bundled model ``"small"``: trained on photographs of people at work and on drawings."""
