"""Problem families with exact verifiers, errors planted on purpose, and answer grading."""
