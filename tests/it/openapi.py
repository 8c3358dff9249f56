"""Checks an OpenAPI document, and answers against what it says of them. Standard input: {"document", "answers"}."""
import json
import sys

from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

given = json.load(sys.stdin)
document = given["document"]
validate(document)


def parts(schema):
    """A schema and all that it is made of."""
    if not isinstance(schema, dict):
        return
    yield schema
    if "$ref" in schema:
        yield from parts(document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]])
    for word in ("allOf", "anyOf", "oneOf"):
        for part in schema.get(word, []):
            yield from parts(part)


def undocumented(schema, value, at="$"):
    """The fields of an answer that its schema does not name."""
    all_parts = list(parts(schema))
    if isinstance(value, list):
        items = {"anyOf": [part["items"] for part in all_parts if "items" in part]}
        for item in value:
            yield from undocumented(items, item, at + "[]")
    if isinstance(value, dict):
        named = [part["properties"] for part in all_parts if "properties" in part]
        more = [part["additionalProperties"] for part in all_parts if part.get("additionalProperties")]
        for name, field in value.items():
            schemas = [properties[name] for properties in named if name in properties] or more
            if named and not schemas:
                yield f"{at}.{name} is not in the document"
            yield from undocumented({"anyOf": schemas}, field, f"{at}.{name}")


faults = []
for answer in given["answers"]:
    name = "{method} {template} {status}".format(**answer)
    responses = document["paths"][answer["template"]][answer["method"]]["responses"]
    content = responses.get(str(answer["status"]), {}).get("content", {})
    if answer["media"] not in content:
        faults.append(f"{name}: {answer['media']} is not in the document")
        continue
    schema = {**content[answer["media"]]["schema"], "components": document["components"]}
    for error in Draft202012Validator(schema).iter_errors(answer["body"]):
        faults.append(f"{name}: {error.json_path}: {error.message[:300]}")
    faults.extend(f"{name}: {fault}" for fault in undocumented(schema, answer["body"]))
print("\n".join(faults))
sys.exit(1 if faults else 0)
