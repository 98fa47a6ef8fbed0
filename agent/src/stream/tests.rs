//! The cases of the assembler.
