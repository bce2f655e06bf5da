//! The program: assembles the line of rooms from a profile and runs it.
