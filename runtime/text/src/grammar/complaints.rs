//! What the compiler complains about, in words that name the keyword, and what helps.

use crate::TextError;

struct Complaint {
    /// Words of the compiler's message.
    words: &'static str,
    sentence: &'static str,
    /// Keywords without which the compiler would not complain; none where nothing helps.
    remedy: &'static [&'static str],
}

const COMPLAINTS: &[Complaint] = &[
    Complaint {
        words: "oneOf constraints",
        sentence: "oneOf is supported where no value fits two of its schemas, and this could not \
                   be shown; use anyOf, or give each schema a property with a different const",
        remedy: &["oneOf"],
    },
    Complaint {
        words: "patternProp",
        sentence: "patternProperties is supported where no name fits two of the patterns, and \
                   this could not be shown; make them exclusive",
        remedy: &["patternProperties"],
    },
    Complaint {
        words: "min/maxProperties",
        sentence: "minProperties and maxProperties are supported where every property in \
                   properties is required",
        remedy: &["minProperties", "maxProperties"],
    },
    Complaint {
        words: "circular references",
        sentence: "$ref to a schema that contains itself is not supported beside other keywords; \
                   put it alone, or into a property",
        remedy: &["$ref"],
    },
    Complaint {
        words: "stack level exceeded",
        sentence: "allOf of schemas that contain themselves by $ref is not supported",
        remedy: &["allOf"],
    },
    Complaint {
        words: "NoExtensionBias",
        sentence: "no text fits; a $ref that only leads back to itself says nothing",
        remedy: &[],
    },
    Complaint {
        words: "schema too large",
        sentence: "allOf, anyOf and oneOf multiply to too many schemas; write the cases out in \
                   one anyOf",
        remedy: &["allOf", "anyOf"],
    },
    Complaint {
        words: "Unsatisfiable schema",
        sentence: "no value fits the schema; keywords such as required, enum, const, pattern, \
                   minimum and maximum contradict each other",
        remedy: &[],
    },
    Complaint {
        words: "lookarounds",
        sentence: "the pattern or regular expression has an anchor in its middle, a word boundary \
                   or a look-around; anchors are supported at the ends, the others are not",
        remedy: &["pattern", "patternProperties"],
    },
    Complaint {
        words: "Unable to determine if regex is empty",
        sentence: "the pattern together with format, minLength and maxLength is too complex; \
                   leave one of them out",
        remedy: &["pattern", "format"],
    },
    Complaint { words: "too many expressions", sentence: TOO_COMPLEX, remedy: COMPLEX },
    Complaint { words: "fuel exhausted", sentence: TOO_COMPLEX, remedy: COMPLEX },
];
const TOO_COMPLEX: &str = "it is too complex; use smaller numbers in multipleOf, minLength, \
    maxLength and in the repetitions of a pattern";
const COMPLEX: &[&str] =
    &["multipleOf", "minLength", "maxLength", "pattern", "format", "patternProperties"];

fn known(complaint: &str) -> Option<&'static Complaint> {
    COMPLAINTS.iter().find(|known| complaint.contains(known.words))
}

/// The compiler's complaint as an error.
pub(super) fn refused(param: &'static str, place: &str, complaint: &str) -> TextError {
    let message = match known(complaint) {
        Some(known) => format!("{place}: {}", known.sentence),
        None => format!("{place}: it cannot be compiled to a grammar: {complaint}"),
    };
    TextError::Unsupported { param, message }
}

/// Keywords without which the compiler would not complain of this.
pub(super) fn remedy(complaint: &str) -> &'static [&'static str] {
    known(complaint).map_or(&[], |known| known.remedy)
}
