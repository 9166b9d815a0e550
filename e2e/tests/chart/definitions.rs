//! The definitions of our kinds come with the release, are upgraded with it and stay.

use std::fs;

use serde_json::{Value, json};

use crate::helm::{chart, render_all};
use crate::objects::text;

#[test]
fn definitions_are_the_generated_ones_and_stay() {
    let objects = render_all("");
    let mut count = 0;
    for entry in fs::read_dir(chart().join("files/crds")).unwrap() {
        let file = entry.unwrap().path();
        let mut want: Value = serde_saphyr::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        let seen = objects.get("CustomResourceDefinition", text(&want["metadata"]["name"]));
        want["metadata"]["annotations"] = json!({"helm.sh/resource-policy": "keep"});
        assert!(*seen == want, "{}: more than the annotation differs", file.display());
        count += 1;
    }
    assert_eq!(objects.of_kind("CustomResourceDefinition").count(), count);
    assert_eq!(count, crds::schema::files().unwrap().len(), "definitions that crdgen makes");
}
