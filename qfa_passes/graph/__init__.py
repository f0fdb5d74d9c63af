"""Small verbs over the editing graph: import and export, walking, constants, symbolic shapes."""
