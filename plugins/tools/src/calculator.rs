//! Computes arithmetic expressions.

use std::time::Instant;

use protocol::{Tool, ToolError, ToolSpec};
use serde_json::json;

use crate::arithmetic;

pub(crate) const NAME: &str = "calculator";

pub(crate) fn build() -> Box<dyn Tool> {
    let parameters = json!({
        "type": "object",
        "properties": {
            "expression": {
                "type": "string",
                "description": "Such as (3 + 4) * 2 ^ 10 / 7. Knows + - * / % ^, parentheses, \
                                pi, e, abs, sqrt, round, floor, ceil, ln, log10, exp, sin, cos, \
                                tan (radians), min and max.",
            },
        },
        "required": ["expression"],
    });
    let description = "Computes an arithmetic expression.".into();
    Box::new(Calculator(ToolSpec { name: NAME.into(), description, parameters, strict: false }))
}

struct Calculator(ToolSpec);

impl Tool for Calculator {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn call(&self, arguments: &str, _deadline: Instant) -> Result<String, ToolError> {
        let expression = crate::argument(arguments, "expression")?
            .ok_or_else(|| ToolError("expression is missing".into()))?;
        let value = arithmetic::evaluate(&expression).map_err(ToolError)?;
        // As text: JSON readers on the way may not keep all digits of a number.
        Ok(json!({ "result": arithmetic::text(value) }).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_errors_reach_the_model() {
        let call = |arguments: &str| build().call(arguments, Instant::now());
        assert_eq!(call("{\"expression\":\"6 * 7\"}"), Ok("{\"result\":\"42\"}".into()));
        assert_eq!(
            call("{\"expression\":\"6 / 0\"}"),
            Err(ToolError("division by zero at character 3".into()))
        );
        assert_eq!(call("{}"), Err(ToolError("expression is missing".into())));
    }
}
