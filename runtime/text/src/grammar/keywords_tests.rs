use super::*;

fn reduced(schema: Value) -> Value {
    Value::Object(reduce(&schema, Care::Whole).unwrap())
}

#[test]
fn keywords_that_restrict_nothing_are_dropped() {
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "title": "t", "x-guidance": {"lenient": true},
        "type": "integer", "format": "int32", "uniqueItems": false, "minimum": 1, "default": 2,
    });
    assert_eq!(reduced(schema), json!({"type": "integer", "minimum": 1}));
    assert_eq!(reduced(json!(true)), json!({}));
}

#[test]
fn lists_of_items_are_those_of_the_newest_draft() {
    assert_eq!(
        reduced(json!({"items": [{}, true], "additionalItems": false, "minItems": 2.0})),
        json!({"prefixItems": [{}, true], "items": false, "minItems": 2})
    );
    assert_eq!(reduced(json!({"items": {}, "additionalItems": false})), json!({"items": {}}));
    assert_eq!(
        reduced(json!({"prefixItems": [{}], "additionalItems": false})),
        json!({"prefixItems": [{}]})
    );
}

#[test]
fn references_become_definitions_once() {
    let schema = json!({
        "properties": {"a": {"$ref": "#/$defs/x~1y%25"}, "b": {"$ref": "#"}, "c": {"$ref": "#/$defs/x~1y%25"}},
        "$defs": {"x/y%": {"type": "array", "items": {"$ref": "#"}}, "unused": {"not": {}}},
    });
    let properties =
        json!({"a": {"$ref": "#/$defs/0"}, "b": {"$ref": "#/$defs/1"}, "c": {"$ref": "#/$defs/0"}});
    assert_eq!(
        reduced(schema),
        json!({"properties": properties, "$defs": {
            "0": {"type": "array", "items": {"$ref": "#/$defs/1"}},
            "1": {"properties": properties},
        }})
    );
}

#[test]
fn refusals_name_keyword_and_place() {
    for (schema, path, word) in [
        (json!({"properties": {"a": {"not": {}}}}), ".properties.a", "not"),
        (json!({"items": {"uniqueItems": true}}), ".items", "uniqueItems"),
        (json!({"anyOf": [{}, {"if": {}}]}), ".anyOf.1", "if"),
        (json!({"$ref": "https://example.com/x"}), ".$ref", "$ref"),
        (json!({"$ref": "#anchor"}), ".$ref", "$ref"),
        (json!({"$ref": "#/$defs/a"}), ".$defs", "$ref"),
        (json!({"allOf": [{"$id": "x", "items": {"$ref": "#"}}]}), ".allOf.0.items.$ref", "$ref"),
        (json!({"format": "uri-template"}), ".format", "format"),
        (json!({"format": "date", "pattern": "^2"}), ".format", "format"),
        (json!({"enum": ["a\u{0}b"]}), ".enum", "control"),
        (json!({"const": "a".repeat(9000)}), ".const", "limit"),
        (json!({"minLength": 1e12}), ".minLength", "counts"),
        (json!({"allOf": vec![json!({"pattern": "a"}); 9]}), "", "pattern"),
        (json!({"minProperties": 2}), ".minProperties", "minProperties"),
        (json!({"const": [12345678901234567890u64]}), ".const", "numbers"),
        (json!({"pattern": "[a&&b]"}), ".pattern", "pattern"),
        (json!({"type": "any"}), ".type", "type"),
        (
            json!({"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/a"}}}),
            "",
            "itself",
        ),
        (json!({"prefixItems": [3]}), ".prefixItems.0", "schema"),
        (json!(false), "", "no value"),
        (json!(3), "", "object"),
    ] {
        let refusal = reduce(&schema, Care::Whole).unwrap_err();
        assert_eq!(refusal.path, path, "{schema}");
        assert!(refusal.message.contains(word), "{}", refusal.message);
    }
}

#[test]
fn size_has_limits() {
    let nested = |depth| (0..depth).fold(json!({}), |inner, _| json!({"items": inner}));
    assert!(reduce(&nested(DEPTH_MAX), Care::Whole).is_ok());
    assert!(
        reduce(&nested(2 * DEPTH_MAX + 1), Care::Rest).unwrap_err().message.contains("too large")
    );
    let many = |count| {
        let properties: Members = (0..count).map(|n| (n.to_string(), json!({}))).collect();
        json!({"properties": properties})
    };
    assert!(reduce(&many(PROPERTIES_MAX), Care::Whole).is_ok());
    assert!(reduce(&many(PROPERTIES_MAX + 1), Care::Rest).is_err());
    assert!(reduce(&json!({"anyOf": vec![json!({}); SCHEMAS_MAX]}), Care::Rest).is_err());
}

#[test]
fn what_no_grammar_keeps_is_left_out_where_the_rest_is_enough() {
    let date = json!({"type": "string", "format": "date", "pattern": "^2"});
    for (schema, expected) in [
        (json!({"format": "uri"}), json!({})),
        (date, json!({"type": "string", "pattern": "^2"})),
        (json!({"type": "array", "uniqueItems": true}), json!({"type": "array"})),
        (
            json!({"properties": {"a": {"not": {}, "minimum": 1}}, "dependentRequired": {"a": ["b"]}}),
            json!({"properties": {"a": {"minimum": 1}}}),
        ),
        (json!({"pattern": "^(?!a)", "maxLength": 3}), json!({"maxLength": 3})),
        (json!({"enum": ["a\u{0}"], "type": "string"}), json!({"type": "string"})),
        (
            json!({"patternProperties": {"(?=a)": {}}, "additionalProperties": false, "required": ["a"]}),
            json!({"required": ["a"]}),
        ),
        (
            json!({"oneOf": [{"uniqueItems": true}, {"type": "string"}], "anyOf": [{}, true]}),
            json!({"anyOf": [{}, true], "allOf": [{"anyOf": [{}, {"type": "string"}]}]}),
        ),
        (
            json!({"oneOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"if": {}, "items": {"$ref": "x.json"}}}}),
            json!({"$defs": {"0": {"items": {}}}, "anyOf": [{"items": {}}]}),
        ),
        (
            json!({"allOf": vec![json!({"pattern": "a", "minLength": 1}); 5]}),
            json!({"allOf": vec![json!({"minLength": 1}); 5]}),
        ),
    ] {
        assert!(reduce(&schema, Care::Whole).is_err(), "{schema}");
        assert_eq!(Value::Object(reduce(&schema, Care::Rest).unwrap()), expected, "{schema}");
    }
    for schema in [json!({"type": "any"}), json!({"enum": 1}), json!(false), json!({"$ref": "#/a"})]
    {
        assert!(reduce(&schema, Care::Rest).is_err(), "{schema}");
    }
}
