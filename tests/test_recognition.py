"""wiki/recognition.py: which pages are medical, and of which type."""

import json

import pytest

from wiki.recognition import recognise


def page(template, *categories):
    return f"{{{{{template}}}}} It is so. " + " ".join(f"[[Category:{name}]]" for name in categories)


@pytest.mark.parametrize(
    ("title", "template", "categories", "kind"),
    [
        ("Mycobacterium tuberculosis", "Taxobox", ["Acid-fast bacilli", "Pathogenic bacteria"], "pathogen"),
        ("Toxoplasmosis", "Taxobox", ["Parasitic diseases"], "disease"),
        ("Herpes simplex virus", "Virusbox", ["Herpesviruses", "Sexually transmitted diseases"], "pathogen"),
        ("Tobacco mosaic virus", "Taxobox", ["Tobamoviruses", "Viral plant pathogens and diseases"], "other"),
        ("Canine distemper virus", "Taxobox", ["Dog diseases", "Morbilliviruses"], "other"),
        ("Red fox", "Speciesbox", ["Foxes", "Mammals of Europe"], "other"),
        ("Arachnophobia", "", ["Phobias"], "disease"),
        ("Ichthyosis hystrix", "", ["Genodermatoses"], "disease"),
        ("Ryan White Act", "", ["Acts of Congress", "HIV/AIDS", "United States federal health legislation"], "other"),
        ("Malaria Consortium", "", ["Malaria organizations", "Infectious diseases"], "other"),
        ("Fever", "Infobox medical condition", ["Symptoms and signs"], "symptom"),
        ("Chest radiograph", "Infobox diagnostic", ["Medical imaging"], "imaging"),
    ],
)
def test_recognition(title, template, categories, kind):
    assert recognise(page(template, *categories) if template else page("clear", *categories), title)[0] == kind


def test_recognition_of_real_pages(shared_data):
    for line in open(shared_data / "wiki" / "recognition-cases.jsonl", encoding="utf-8"):
        case = json.loads(line)
        assert recognise(case["wikitext"], case["title"])[0] == case["type"], case["title"]
