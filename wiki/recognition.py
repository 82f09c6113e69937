"""Is this page medical, and about what: its entity type, by its infobox and its categories.

Only the names of templates and categories are looked at: most pages that a walk meets are not medical, and finding that
out must not take a parser.
"""

from __future__ import annotations

import re

from wiki.wikitext import CATEGORY_NAME, TEMPLATE_NAME, listed, template_name

# By infobox, of which this is the beginning of the name ...
INFOBOXES = {
    "disease": "infobox medical condition; infobox disease; diseasedisorder infobox",
    "symptom": "infobox symptom; infobox sign",
    "test": "infobox diagnostic; infobox medical test",
    "procedure": "infobox medical intervention; infobox interventions",
    "drug class": "infobox drug class",
    "drug": "infobox drug; infobox vaccine; drugbox",
    "anatomy": "infobox anatomy; infobox bone; infobox muscle; infobox artery; infobox vein; infobox nerve",
    "pathogen": "virusbox",
}
INFOBOX_TYPES = {name: kind for kind, names in INFOBOXES.items() for name in listed(names)}
# ... or, on a page without any infobox, by category (the first type that fits). A type that an infobox leaves open
# (fever has the infobox of a medical condition, an X-ray that of a test) is refined by category as well.
CATEGORIES = {
    "symptom": re.compile(r"\bsymptoms and signs\b|^(medical )?(symptoms|signs)\b"),
    "imaging": re.compile(r"\bmedical imaging\b|\bradiography\b|\bultrasonography\b|^neuroimaging$"),
    "test": re.compile(r"\b(medical|blood|urine|diagnostic|laboratory|genetic) tests?\b|^clinical pathology$"),
    "procedure": re.compile(r"\b(medical|surgical|dental) procedures?\b|^(surgery|therapies|medical treatments)$"),
    "drug class": re.compile(r"\bdrug classes\b"),
    "drug": re.compile(r"\b(drugs|medications|medicines|antibiotics|antivirals|vaccines|antidotes)$"),
    "mechanism": re.compile(r"\bpathophysiology\b|^(anatomical )?pathology$|^pathological processes$"),
    "anatomy": re.compile(r"\bhuman (anatomy|body)\b|^organs( \(anatomy\))?$"),
    "disease": re.compile(
        r"\b(diseases|disorders|syndromes|infections|cancers|neoplasms|psychiatric diagnosis|genodermatoses"
        r"|dermatoses)\b|phobias$|\b(skin|cutaneous|mucocutaneous) (conditions|lesions|growths|anomalies"
        r"|congenital anomalies)\b|\bconditions of the (skin|mucous|nails?|hair)"
        r"|\bdermal and subcutaneous growths\b|\bcongenital anomalies\b|\b(melanocytic nevi|tumou?rs|carcinomas"
        r"|sarcomas|leukemias?|lymphomas?|hamartomas|hernias|poisonings?)$|\b\w{3,}(opathies|dystrophies|emias"
        r"|aemias|itides|iases|plegias)$|\b(inborn errors|errors) of metabolism\b"
    ),
}
# A page without a medical infobox is about something else if one of its categories is like these.
OUTSIDE = re.compile(
    r"\blaws?\b|\blegislation\b|^acts of\b|\b(organi[sz]ations|companies|charities|foundations|associations"
    r"|institutes|institutions|hospitals|clinics|agencies|journals|magazines|books|novels|films|albums|songs"
    r"|television|series|actors|players|politicians|physicians|surgeons|scientists|awards|websites|schools|museums"
    r"|treaties|lawsuits|court cases|campaigns|conferences|observances|characters|outbreaks|disasters|epidemics"
    r"|people|births|surnames|activists|events|societies|departments|universities|bands|musicians|writers|programs"
    r"|projects|ministries|stadiums|brands)\b(?! diseases)|\bdeaths\b|\bdeaths from\b|^\d{4} in\b|^history of\b"
    r"|\bfictional\b|\bpolicy\b|\bpolitics\b"
)
REFINED = {("disease", "symptom"), ("test", "imaging"), ("procedure", "imaging"), ("procedure", "test")}
TAXOBOXES = ("taxobox", "speciesbox", "subspeciesbox", "automatic taxobox", "virusbox")
# Most organisms are no human pathogens: their categories tell. A human disease among them settles it ...
INFECTS_HUMANS = re.compile(
    r"\b(sexually transmitted|infections?|foodborne|waterborne|zoonoses|of humans|infectious causes|helminthiases"
    r"|causes of death|biological weapons|cutaneous conditions|human (pathogens|viruses|diseases)|tick-borne"
    r"|insect-borne|viral fevers|healthcare-associated|nosocomial|tropical diseases|hiv|aids|syphilis|gonorrhea"
    r"|malaria|cholera|leprosy|plague|anthrax|tetanus|diphtheria|typhus|typhoid|polio|measles|mumps|rubella|rabies"
    r"|influenza|chickenpox|smallpox|pneumonia|dysentery|ebola|dengue|\w+ fever|scarlet|whooping cough|botulism"
    r"|\w{4,}(osis|iasis|itis))\b"
)
# ... next those of plants and animals ...
INFECTS_OTHERS = re.compile(
    r"\b(plant|crop|tree|fruit|potato|poultry|dog|cat|horse|bovine|cattle|swine|pig|sheep|fish|bee|bird|avian"
    r"|canine|feline|equine|insect|amphibian|animal|aquatic|rabbit|rodent|veterinary)s? (\w+ )?(pathogens?"
    r"|diseases?|parasites?|viruses)\b|\bphages?\b|bacteriophage|\b(poty|tobamo|como|seco|potex|baculo|tymo|luteo"
    r"|gemini|begomo|nepo|ilar|carla|clostero)vir|\bparasitic (animals|plants|wasps|flies|birds|fish)\b"
)
# ... then words for pathogens, and genera and families of which those that are known at all infect humans.
PATHOGENS = re.compile(
    r"\bpathogen|\bviruses\b|\bparasit|\b(bacterial|viral|fungal|protozoal|parasitic) diseases\b|(lenti|herpes"
    r"|simplex|varicello|flavi|entero|picorna|corona|orthomyxo|paramyxo|filo|arena|hanta|bunya|toga|alpha|lyssa"
    r"|rhabdo|pox|adeno|papilloma|polyoma|parvo|rota|reo|calici|noro|hepadna|hepe|retro|astro|delta|henipa"
    r"|morbilli|rubula)vir(us|inae|idae)|\b(spirochaet|treponem|borreli|leptospir|chlamydi|rickettsi|mycobacteri"
    r"|neisseri|bartonell|brucell|legionell|listeri|salmonell|shigell|yersini|vibrion|campylobacter|helicobacter"
    r"|haemophil|pasteurell|bordetell|francisell|coxiell|ehrlichi|staphylococ|streptococ|enterococ|clostridi"
    r"|corynebacteri|nocardi|mycoplasm|ureaplasm|plasmodi|toxoplasm|trypanosom|leishmani|entamoeb|giardi|trichomon"
    r"|cryptosporidi|schistosom|filari|ascarid|taenia|echinococ|trichinell|candida\b|aspergill|cryptococ"
    r"|histoplasm|coccidioid|pneumocyst|dermatophyt)"
)
NAMES_DISEASE = re.compile(r"(fever|iasis|osis|itis|pox|syndrome|disease|contagiosum)$", re.IGNORECASE)
DISAMBIGUATION = {"disambiguation", "disambig", "dab", "disamb", "hndis", "geodis"}
TYPES = sorted({*INFOBOX_TYPES.values(), *CATEGORIES})
RARE_CATEGORY = re.compile(r"\b(rare|orphan)\b")


def recognise(wikitext: str, title: str = "") -> tuple[str, str | None, list[str]]:
    """A page's type (an entity type, "disambiguation" or "other"), its medical infobox and its categories.

    It looks at the names of templates and categories only: most pages that a walk meets are not medical, and finding
    that out must not take a parser.
    """
    templates = list(map(template_name, TEMPLATE_NAME.findall(wikitext)))
    categories = [name.strip().lower() for name in CATEGORY_NAME.findall(wikitext)]
    if any(name in DISAMBIGUATION or name.endswith("disambiguation") for name in templates):
        return "disambiguation", None, categories
    by_category = kind_by(categories)
    for name in templates:
        prefix = max((prefix for prefix in INFOBOX_TYPES if name.startswith(prefix)), key=len, default=None)
        if prefix:
            kind = INFOBOX_TYPES[prefix]
            return by_category if (kind, by_category) in REFINED else kind, name, categories
    if any(name.startswith(TAXOBOXES) for name in templates):
        return organism(categories, title), None, categories
    return "other" if any(name.startswith("infobox") for name in templates) else by_category, None, categories


def kind_by(categories: list[str]) -> str:
    """The type that a page's categories name; "other" if they name none, or something that is nothing medical."""
    if any(map(OUTSIDE.search, categories)):
        return "other"
    return next((kind for kind, pattern in CATEGORIES.items() if any(map(pattern.search, categories))), "other")


def organism(categories: list[str], title: str) -> str:
    """Whether a page with a taxobox is about a human pathogen, a disease (which some editors give one) or neither."""
    human = any(map(INFECTS_HUMANS.search, categories))
    genus, _, epithet = title.partition(" ")
    is_species = epithet.islower() and PATHOGENS.search(genus.lower())  # Mycobacterium tuberculosis
    if NAMES_DISEASE.search(title) and not is_species:
        return "disease" if human or any(map(PATHOGENS.search, categories)) else "other"
    if human or not any(map(INFECTS_OTHERS.search, categories)) and any(map(PATHOGENS.search, categories)):
        return "pathogen"
    return "other"
