"""Which medical domains a text speaks of, by its words: a plain count of coverage, no classification of questions."""

from __future__ import annotations

import re

# A domain and the beginnings of words, or Chinese words, that speak of it.
DOMAINS = {
    "cardiovascular": "heart cardi vascul vein coronar aort arter hypertens angina valv atri ventric thromb 心 高血压",
    "respiratory": "pulmon lung respir asthma pneumon bronch dyspnea tubercul 肺 哮喘 支气管",
    "digestive": "gastr intestin hepat liver colon colitis pancrea bowel esophag cirrhos abdom 胃 肠 肝 胰",
    "nervous system": "neuro brain cerebr seizure epilep stroke mening parkinson dementia spinal 脑 神经 癫痫",
    "mental health": "psych depress schizo anxiety bipolar suicid addict 精神 抑郁",
    "endocrine and metabolic": "diabet insulin thyroid adrenal pituit hormon gluc metabol obes 糖尿病 甲状腺 激素",
    "kidney and urinary": "renal kidney nephr glomerul urin bladder prostat dialys 肾 尿 膀胱",
    "blood": "anemi anaemi hemat haemat leuk lymphom platelet coagul hemophil haemophil 贫血 血小板 白血病",
    "infection": "infect bacteri viral virus antibiot sepsis fung parasit malari hiv 感染 细菌 病毒 抗生素",
    "immune and allergic": "immun allerg autoimmun lupus anaphyla rheumat 免疫 过敏 风湿",
    "cancer": "cancer carcinom tumor tumour neoplas metasta malignan chemother 癌 肿瘤",
    "bones, joints, muscles": "bone fractur arthr muscle osteo joint gout tendon 骨 关节 肌",
    "skin": "skin dermat rash eczema psorias melanom 皮肤 皮疹",
    "eye, ear, nose, throat": "eye ocular retin glaucom cornea hearing otitis sinus tonsil 眼 耳 鼻 喉",
    "women's health and birth": "pregnan obstet gyneco gynaeco uter ovar menstru breast labor 妊娠 孕 子宫 卵巢",
    "children": "child infant neonat newborn pediatr paediatr congenit 小儿 患儿 新生儿",
    "teeth": "dental tooth teeth molar caries gingiv periodont 牙",
    "drugs and poisons": "drug dose pharmac toxic poison overdos inhibitor agonist antagonist 药 中毒",
    "genes and cells": "gene chromosom mutation inherit enzyme dna rna protein 基因 染色体 遗传 酶",
    "public health and statistics": "epidemiol preval incidence screening vaccin trial odds cohort 流行病 疫苗 筛查",
}
WORDS = {
    domain: re.compile(
        r"\b(?:"
        + "|".join(w for w in words.split() if w.isascii())
        + ")|"
        + "|".join(w for w in words.split() if not w.isascii()),
        re.IGNORECASE,
    )
    for domain, words in DOMAINS.items()
}


def domains_of(text: str) -> list[str]:
    """The domains of which a text has a word, in the table's order; a text may speak of several or of none.

    >>> domains_of("Which antibiotic treats pneumonia in a pregnant woman?")
    ['respiratory', 'infection', "women's health and birth"]
    """
    return [domain for domain, pattern in WORDS.items() if pattern.search(text)]
