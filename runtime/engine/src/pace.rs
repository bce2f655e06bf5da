//! How fast this box is: what a step of answers takes, and what each token of a prompt adds.

use std::time::{Duration, Instant};

/// Tells what time it is.
pub(crate) type Clock = Box<dyn FnMut() -> Instant + Send>;

/// Tokens by which steps with prompts are told apart, where the network has no greater tiles.
const TILE_TOKENS_MIN: u32 = 8;
/// Tiles of a step up to which its time is kept for each number.
const TILES_MAX: usize = 64;
/// Prompt tokens from which on a step tells something about their price.
const TELLING_TOKENS: u32 = 4;
/// Share of a new measurement in the mean.
const NEW: f64 = 0.25;

/// Tokens of answers in a step up to which its time is kept for each number.
const ANSWERS_MAX: usize = 32;

/// Measured times, as moving means; empty until a step was seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pace {
    /// Microseconds of a step with answers alone, by the number of their tokens.
    answers_us: [Option<f64>; ANSWERS_MAX + 1],
    /// Microseconds that a token of a prompt adds to a step.
    prompt_token_us: Option<f64>,
    /// Microseconds of a step with prompts, by the number of its tiles.
    tiles_us: [Option<f64>; TILES_MAX + 1],
    tile_tokens: u32,
}

impl Pace {
    /// Nothing is known. `tile_tokens`: those that are computed together best.
    pub(crate) fn new(tile_tokens: u32) -> Self {
        Self {
            answers_us: [None; ANSWERS_MAX + 1],
            prompt_token_us: None,
            tiles_us: [None; TILES_MAX + 1],
            tile_tokens: tile_tokens.max(TILE_TOKENS_MIN),
        }
    }

    /// Takes in a step of so many tokens of prompts beside so many of answers.
    pub(crate) fn note(&mut self, prompt_tokens: u32, answer_tokens: u32, took: Duration) {
        let took = took.as_secs_f64() * 1e6;
        if prompt_tokens == 0 {
            if let Some(mean) = self.answers_us.get_mut(answer_tokens as usize) {
                fold(mean, took);
            }
        } else if prompt_tokens >= TELLING_TOKENS {
            let answers_us = match answer_tokens {
                0 => 0.0,
                tokens => self.answers_us(tokens).unwrap_or(0.0),
            };
            let prompts_us = (took - answers_us).max(0.0);
            fold(&mut self.prompt_token_us, prompts_us / f64::from(prompt_tokens));
            let tiles = (prompt_tokens + answer_tokens).div_ceil(self.tile_tokens);
            if let Some(mean) = self.tiles_us.get_mut(tiles as usize) {
                fold(mean, took);
            }
        }
    }

    /// Prompt tokens that fill a step to whole tiles, as many as there can be for it to take at most
    /// `slowdown_max` times what it takes for its `answer_tokens` alone, or the least that is worth a
    /// step; `None` while that is not known.
    pub(crate) fn chunk_tokens(&self, answer_tokens: u32, slowdown_max: f64) -> Option<u32> {
        let most_us = slowdown_max * self.answers_us(answer_tokens)?;
        self.tiles_us(1)?;
        let first = (answer_tokens + TILE_TOKENS_MIN / 2).div_ceil(self.tile_tokens);
        let fits = |tiles: &u32| self.tiles_us(*tiles).is_some_and(|us| us <= most_us);
        let tiles = (first..=TILES_MAX as u32).take_while(fits).last().unwrap_or(first);
        Some(tiles * self.tile_tokens - answer_tokens)
    }

    /// How many times as much of answers is written in a step when `more` tokens are checked beside
    /// `answer_tokens`, and `right` of them are kept. Where a step of so many was never seen it is
    /// taken for as quick as a smaller one, so that it is tried. `beside_us` is what it takes to find
    /// them.
    pub(crate) fn gain(&self, answer_tokens: u32, more: u32, right: f64, beside_us: f64) -> f64 {
        let (Some(without), Some(with)) =
            (self.answers_us(answer_tokens), self.answers_us(answer_tokens + more))
        else {
            return 0.0;
        };
        let answers = f64::from(answer_tokens);
        (answers + right) / answers * without / (with.max(without) + beside_us)
    }

    /// How long so many prompt tokens take; with a `slowdown_max` beside answers that are written.
    /// `None` while that is not known.
    pub(crate) fn prompts(&self, tokens: u64, slowdown_max: Option<f64>) -> Option<Duration> {
        // Of each step, only what is above the answers' own time goes to prompts.
        let share = slowdown_max.map_or(1.0, |max| ((max - 1.0) / max).max(0.05));
        let microseconds = self.prompt_token_us? * tokens as f64 / share;
        Some(Duration::from_micros(microseconds as u64))
    }

    /// Microseconds of a step with prompts of so many tiles, or in proportion to the nearest smaller one
    /// known, or else to the nearest greater one.
    fn tiles_us(&self, tiles: u32) -> Option<f64> {
        let known = |(known, mean): (usize, &Option<f64>)| {
            mean.map(|us| us * f64::from(tiles) / known.max(1) as f64)
        };
        let tiles = (tiles as usize).min(TILES_MAX);
        let smaller = self.tiles_us.iter().enumerate().take(tiles + 1).rev().find_map(known);
        smaller.or_else(|| self.tiles_us.iter().enumerate().skip(tiles).find_map(known))
    }

    /// Microseconds of a step of so many tokens of answers, or of the nearest smaller one known, or
    /// else of the nearest greater one.
    fn answers_us(&self, tokens: u32) -> Option<f64> {
        let (smaller, greater) = self.answers_us.split_at((tokens as usize).min(ANSWERS_MAX) + 1);
        smaller.iter().rev().chain(greater).find_map(|mean| *mean)
    }
}

/// Takes a new measurement into a moving mean.
pub(crate) fn fold(mean: &mut Option<f64>, new: f64) {
    *mean = Some(mean.map_or(new, |mean| mean + NEW * (new - mean)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_what_the_slowdown_pays_for() {
        let mut pace = Pace::new(8);
        assert_eq!(pace.chunk_tokens(2, 3.0), None);
        pace.note(0, 2, Duration::from_millis(100));
        assert_eq!(pace.chunk_tokens(2, 3.0), None);
        pace.note(20, 2, Duration::from_millis(240));
        assert_eq!(pace.chunk_tokens(2, 3.0), Some(22), "three tiles take 240 ms, four 320");
        assert_eq!(pace.chunk_tokens(2, 2.0), Some(14), "two tiles take 160 ms");
        assert_eq!(pace.chunk_tokens(2, 1.0), Some(6), "the least that is worth a step");
        assert_eq!(pace.chunk_tokens(5, 1.0), Some(11));
        assert_eq!(pace.prompts(1_000, None), Some(Duration::from_secs(7)));
        assert_eq!(pace.prompts(1_000, Some(2.0)), Some(Duration::from_secs(14)));
    }

    #[test]
    fn each_number_of_tiles_has_its_own_time() {
        let mut pace = Pace::new(8);
        pace.note(0, 1, Duration::from_millis(100));
        for (tokens, milliseconds) in [(7, 120), (15, 300), (23, 310)] {
            pace.note(tokens, 1, Duration::from_millis(milliseconds));
        }
        assert_eq!(pace.chunk_tokens(1, 2.0), Some(7), "what a tile costs says nothing of two");
        assert_eq!(pace.chunk_tokens(1, 3.05), Some(15));
        assert_eq!(pace.chunk_tokens(1, 3.5), Some(23));
    }

    #[test]
    fn a_gain_is_what_was_measured() {
        let mut pace = Pace::new(1);
        assert_eq!(pace.gain(1, 3, 3.0, 0.0), 0.0);
        pace.note(0, 1, Duration::from_millis(100));
        assert_eq!(pace.gain(1, 3, 1.0, 0.0), 2.0, "never seen, so it is tried");
        pace.note(0, 4, Duration::from_millis(400));
        assert_eq!(pace.gain(1, 3, 1.0, 0.0), 0.5);
        assert_eq!(pace.gain(1, 3, 1.0, 100_000.0), 0.4, "finding them takes its time");
    }

    #[test]
    fn prompts_alone_pay_for_the_whole_step() {
        let mut pace = Pace::new(1);
        pace.note(0, 1, Duration::from_millis(100));
        pace.note(100, 0, Duration::from_secs(1));
        assert_eq!(pace.prompts(1, None), Some(Duration::from_millis(10)));
    }
}
