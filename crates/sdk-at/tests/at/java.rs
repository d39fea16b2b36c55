//! Undo logs that Java's AT wrote, captured from its runs, are rolled back as Java would have done it.
