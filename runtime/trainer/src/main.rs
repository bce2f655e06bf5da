//! Makes the model that the program carries: lessons from a grammar, a vocabulary of its own, training
//! on the definition that serves, and scores on what training never saw.
//!
//! `trainer learn DIR` trains into a folder and goes on where it stopped; `trainer ship DIR FILE` makes
//! the quantised GGUF file; `trainer judge DIR FILE` asks it; `trainer card DIR FILE` writes its card.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program prints")]

mod card;
mod checkpoint;
mod dice;
mod example;
mod initial;
mod judge;
mod learn;
mod lessons;
mod parameters;
mod ship;
mod training;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod training_tests;
mod vocabulary;

use std::path::PathBuf;

use anyhow::Result;
use checkpoint::Folder;
use clap::{Parser, Subcommand};
use dice::Dice;
use lessons::{Teacher, Wish};
use text::{TemplateVersion, prompt_texts};

/// Makes the model that zonda carries.
#[derive(Debug, Parser)]
#[command(name = "trainer")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print lessons
    Show {
        /// Boxes, of six lessons each
        #[arg(default_value_t = 10)]
        boxes: usize,
        /// Another seed gives other lessons
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Train, or go on training
    Learn(learn::Learn),
    /// Make the quantised GGUF file of a trained model
    Ship {
        /// Where it was trained
        folder: PathBuf,
        /// The file to write
        file: PathBuf,
    },
    /// Ask a file lessons that training never saw, and keep the scores beside the training
    Judge {
        /// Where it was trained
        folder: PathBuf,
        /// The file
        file: PathBuf,
        /// Lessons of each set and language
        #[arg(long, default_value_t = 60)]
        cases: usize,
        /// Not the seed of training
        #[arg(long, default_value_t = 4242)]
        seed: u64,
        /// Wrong answers of each set and language to print
        #[arg(long, default_value_t = 0)]
        wrong: usize,
    },
    /// Write the card of a judged file, and the plot of its loss beside it
    Card {
        /// Where it was trained
        folder: PathBuf,
        /// The file
        file: PathBuf,
        /// Other runs of the recipe, to state the spread
        #[arg(long)]
        beside: Vec<PathBuf>,
    },
}

/// A step makes and drops tensors by the thousand. `MIMALLOC_PURGE_DELAY=100000` in the environment keeps
/// their memory between steps, a quarter more of which fit into the same time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Show { boxes, seed } => show(boxes, seed),
        Command::Learn(arguments) => learn::learn(&arguments),
        Command::Ship { folder, file } => ship::ship(&Folder(folder), &file),
        Command::Judge { folder, file, cases, seed, wrong } => {
            judge::judge(&Folder(folder), &file, cases, seed, wrong)
        }
        Command::Card { folder, file, beside } => card::write(&Folder(folder), &file, &beside),
    }
}

fn show(boxes: usize, seed: u64) -> Result<()> {
    let teacher = Teacher::new()?;
    let mut dice = Dice::new(seed);
    for _ in 0..boxes {
        let lessons = teacher.group(6, &Wish::TAUGHT, &mut dice);
        for lesson in &lessons {
            println!("{:?}, {}", lesson.sort, lesson.language);
            let texts = prompt_texts(TemplateVersion::V3, &lesson.messages, &lesson.tools)?;
            texts.iter().for_each(|text| println!("  {text}"));
            println!("  => {}", lesson.answer.text());
        }
    }
    Ok(())
}
