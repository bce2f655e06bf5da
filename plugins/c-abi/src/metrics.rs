//! What an engine has done, as OpenMetrics text.

use std::fmt::Write;

use crate::layout::Stats;

/// One family: its name, its type, what it tells, its samples by label.
struct Family {
    name: &'static str,
    kind: Kind,
    help: &'static str,
    samples: &'static [Sample],
}

/// The labels of a sample, and where its value comes from.
type Sample = (&'static str, fn(&Stats) -> f64);

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

use Kind::{Counter, Gauge};

const FAMILIES: &[Family] = &[
    Family {
        name: "zonda_requests",
        kind: Counter,
        help: "Requests that are over, by how they ended.",
        samples: &[
            ("{end=\"ok\"}", |stats| stats.requests_ok as f64),
            ("{end=\"failed\"}", |stats| stats.requests_failed as f64),
            ("{end=\"cancelled\"}", |stats| stats.requests_cancelled as f64),
        ],
    },
    Family {
        name: "zonda_prompt_tokens",
        kind: Counter,
        help: "Prompt tokens that went through the network.",
        samples: &[("", |stats| stats.tokens_prompt as f64)],
    },
    Family {
        name: "zonda_answer_tokens",
        kind: Counter,
        help: "Answer tokens.",
        samples: &[("", |stats| stats.tokens_generated as f64)],
    },
    Family {
        name: "zonda_requests_active",
        kind: Gauge,
        help: "Requests that are being answered.",
        samples: &[("", |stats| stats.active.into())],
    },
    Family {
        name: "zonda_requests_active_max",
        kind: Gauge,
        help: "Requests that can be answered at the same time.",
        samples: &[("", |stats| stats.max_active.into())],
    },
    Family {
        name: "zonda_requests_queued",
        kind: Gauge,
        help: "Requests that wait.",
        samples: &[("", |stats| stats.queue_depth.into())],
    },
    Family {
        name: "zonda_answer_tokens_per_second",
        kind: Gauge,
        help: "Tokens of one answer each second, on average; 0 before the first.",
        samples: &[("", |stats| stats.decode_tokens_per_s)],
    },
    Family {
        name: "zonda_prompt_tokens_per_second",
        kind: Gauge,
        help: "Tokens of one prompt each second, on average; 0 before the first.",
        samples: &[("", |stats| stats.prefill_tokens_per_s)],
    },
    Family {
        name: "zonda_model_bytes",
        kind: Gauge,
        help: "Bytes of the loaded models' files.",
        samples: &[("", |stats| stats.model_bytes as f64)],
    },
    Family {
        name: "zonda_healthy",
        kind: Gauge,
        help: "1, or 0 when the engine is out of use.",
        samples: &[("", |stats| f64::from(u8::from(stats.health == 0)))],
    },
];

/// The statistics as OpenMetrics text, its end included.
pub(crate) fn text(stats: &Stats) -> String {
    let mut text = String::new();
    for Family { name, kind, help, samples } in FAMILIES {
        let (kind, suffix) = match kind {
            Counter => ("counter", "_total"),
            Gauge => ("gauge", ""),
        };
        write_line(&mut text, format_args!("# TYPE {name} {kind}"));
        write_line(&mut text, format_args!("# HELP {name} {help}"));
        for (labels, value) in *samples {
            write_line(&mut text, format_args!("{name}{suffix}{labels} {}", value(stats)));
        }
    }
    text.push_str("# EOF\n");
    text
}

fn write_line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a String does not fail.
    let _written = writeln!(text, "{line}");
}
