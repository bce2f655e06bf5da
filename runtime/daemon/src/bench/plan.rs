//! Which rows are measured, what they are called, and whether the network can take them.

use std::fmt;

use engine::Capacity;

use crate::cli;
use crate::error::AssembleError;

/// What each of several sequences has read before they write together, where no depth is given.
const SHORT_PROMPT_TOKENS: u32 = 16;

/// One row of the table. Its name is the one llama-bench gives it: `pp512`, `tg32 @ d8192`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Test {
    pub(super) kind: Kind,
    /// Tokens that each sequence holds before the clock starts.
    pub(super) depth_tokens: u32,
}

/// What the clock sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One sequence reads so many tokens.
    Prompt { tokens: u32 },
    /// So many sequences write so many tokens each, one of each in every step.
    Generate { tokens: u32, sequences: u32 },
}

impl Test {
    /// Tokens that each sequence gains while the clock runs.
    pub(super) fn tokens_each(&self) -> u32 {
        match self.kind {
            Kind::Prompt { tokens } | Kind::Generate { tokens, .. } => tokens,
        }
    }

    pub(super) fn sequences(&self) -> u32 {
        match self.kind {
            Kind::Prompt { .. } => 1,
            Kind::Generate { sequences, .. } => sequences,
        }
    }

    /// Tokens of all sequences together that one repetition counts.
    pub(super) fn tokens(&self) -> u64 {
        u64::from(self.tokens_each()) * u64::from(self.sequences())
    }

    /// Tokens that each sequence holds when the clock starts.
    pub(super) fn filled_tokens(&self) -> u32 {
        match self.depth_tokens {
            0 if self.sequences() > 1 => SHORT_PROMPT_TOKENS,
            depth => depth,
        }
    }

    /// Tokens that each sequence holds at the end.
    fn context_tokens(&self) -> u64 {
        u64::from(self.filled_tokens()) + u64::from(self.tokens_each())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Prompt { tokens } => write!(f, "pp{tokens}")?,
            Kind::Generate { tokens, sequences: 1 } => write!(f, "tg{tokens}")?,
            Kind::Generate { tokens, sequences } => write!(f, "tg{tokens} x{sequences}")?,
        }
        match self.depth_tokens {
            0 => Ok(()),
            depth => write!(f, " @ d{depth}"),
        }
    }
}

/// Every combination of the lists, those of the first depth first; a length of 0 gives no row.
pub(super) fn tests(arguments: &cli::Bench) -> Vec<Test> {
    let mut tests = Vec::new();
    for depth_tokens in arguments.depth.iter().copied() {
        for tokens in arguments.prompt_tokens.iter().copied().filter(|tokens| *tokens > 0) {
            tests.push(Test { kind: Kind::Prompt { tokens }, depth_tokens });
        }
        for tokens in arguments.generated_tokens.iter().copied().filter(|tokens| *tokens > 0) {
            for sequences in arguments.sequences.iter().copied() {
                tests.push(Test { kind: Kind::Generate { tokens, sequences }, depth_tokens });
            }
        }
    }
    tests
}

/// Looks for a row that the network cannot take, before minutes go into the others.
///
/// Errors: the row, and the limit that it exceeds: the model's context, the pages of the cache or
/// the tokens of a step.
pub(super) fn check(
    tests: &[Test],
    capacity: &Capacity,
    model_context_tokens: u32,
) -> Result<(), AssembleError> {
    let page = u64::from(capacity.page_tokens.max(1));
    let cache_tokens = u64::from(capacity.pages) * page;
    for test in tests {
        let (each, sequences) = (test.context_tokens(), u64::from(test.sequences()));
        // A page belongs to one sequence.
        let wanted_tokens = each.div_ceil(page) * page * sequences;
        let message = if each > u64::from(model_context_tokens) {
            format!("{each} tokens of context, and this model's is {model_context_tokens}")
        } else if wanted_tokens > cache_tokens {
            format!(
                "{wanted_tokens} tokens of cache, and there are {cache_tokens}; raise \
                 engine.context_tokens_max, engine.sequences_max or memory.kv_pool_bytes with --set"
            )
        } else if sequences > u64::from(capacity.batch_tokens_max) {
            format!(
                "{sequences} tokens in one step, and engine.batch_tokens_max is {}",
                capacity.batch_tokens_max
            )
        } else {
            continue;
        };
        return Err(AssembleError::Input { message: format!("{test} takes {message}") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn parsed(line: &str) -> Result<cli::Bench, clap::Error> {
        let words = ["zonda", "bench"].into_iter().chain(line.split_whitespace());
        match cli::Cli::try_parse_from(words)?.command {
            cli::Command::Bench(arguments) => Ok(arguments),
            other => panic!("{other:?}"),
        }
    }

    fn names(line: &str) -> Vec<String> {
        tests(&parsed(line).unwrap()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn without_lists_one_prompt_and_one_answer_are_measured() {
        assert_eq!(names(""), ["pp512", "tg64"]);
    }

    #[test]
    fn every_combination_has_a_row_and_a_name() {
        assert_eq!(
            names("-p 128,512 -n 32 -d 0,4096 -b 1,8"),
            [
                "pp128",
                "pp512",
                "tg32",
                "tg32 x8",
                "pp128 @ d4096",
                "pp512 @ d4096",
                "tg32 @ d4096",
                "tg32 x8 @ d4096"
            ]
        );
    }

    #[test]
    fn a_length_of_zero_gives_no_row() {
        assert_eq!(names("-p 0 -n 8"), ["tg8"]);
        assert_eq!(names("-p 0 -n 0"), [""; 0]);
    }

    #[test]
    fn what_is_no_list_of_numbers_is_a_usage_error() {
        for line in ["-p 1,,2", "-n x", "-d -1", "-b 0", "-b 1025", "-r 0"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    fn refused(line: &str) -> String {
        let capacity = Capacity {
            vocabulary: 100,
            pages: 20,
            page_tokens: 16,
            context_tokens_max: 256,
            batch_tokens_max: 4,
            tile_tokens: 1,
        };
        let tests = tests(&parsed(line).unwrap());
        check(&tests, &capacity, 256).map_or_else(|error| error.to_string(), |()| "taken".into())
    }

    #[test]
    fn a_row_beyond_a_limit_is_refused_by_the_limits_name() {
        assert_eq!(refused("-p 256 -n 0"), "taken");
        assert_eq!(
            refused("-p 1 -n 64 -d 0,193"),
            "tg64 @ d193 takes 257 tokens of context, and this model's is 256"
        );
        // 16 tokens before and 40 more are 4 pages of 16 for each.
        assert_eq!(
            refused("-p 1 -n 40 -b 6"),
            "tg40 x6 takes 384 tokens of cache, and there are 320; raise \
             engine.context_tokens_max, engine.sequences_max or memory.kv_pool_bytes with --set"
        );
        assert_eq!(
            refused("-p 1 -n 1 -b 5"),
            "tg1 x5 takes 5 tokens in one step, and engine.batch_tokens_max is 4"
        );
        assert_eq!(
            refused("-p 4294967295 -n 0 -d 4294967295"),
            "pp4294967295 @ d4294967295 takes 8589934590 tokens of context, and this model's is 256"
        );
    }
}
