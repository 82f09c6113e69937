"""What names or traces a person becomes a tag (section 3.1): names with titles, telephone numbers, e-mail addresses,
record and social-security numbers, street addresses, exact dates. Ages, doses, lab values, eponyms and drug names stay.

The patterns are bounded, so that hostile text takes no longer than any other. They are rules for texts like exam
questions; medical records need a de-identification of their own.
"""

from __future__ import annotations

import re

NAME = "[A-Z][A-Za-zÀ-ÿ'’-]{1,30}"
MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\.?"
DAY = r"\d{1,2}(?:st|nd|rd|th)?"
STREET = r"(?:(?:Street|Avenue|Road|Boulevard|Lane|Drive|Court|Place|Square|Terrace)\b|(?:St|Ave|Rd|Blvd|Ln)\b\.?)"
RECORD = r"MRN|SSN|(?:medical|patient|hospital) (?:record|chart|file|ID)(?: number| no\.?)?|social security number"
SURNAME = (
    "[王李张刘陈杨黄赵吴周徐孙马朱胡郭何林罗郑梁谢宋唐许韩冯邓曹彭曾萧肖田董袁潘于蒋蔡余杜叶程苏魏吕丁沈姚姜崔钟谭陆汪]"
)

# In this order: a record number or an address is taken whole before a shorter pattern takes a part of it.
ANONYMISE = [
    (r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}", "[EMAIL]"),
    (rf"(?i)\b({RECORD})((?: is| was)?[ :#]{{0,3}})(?=[A-Z-]{{0,4}}\d)[A-Z0-9-]{{4,20}}", r"\1\2[RECORD]"),
    (r"((?:病历|住院|门诊)号[ :：]{0,2}|身份证号?码?[ :：]{0,2})[A-Za-z0-9-]{4,20}", r"\1[RECORD]"),
    (r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])", "[RECORD]"),  # a social-security number
    (r"(?<![\d.+])\+\d{1,3}(?:[ .-]\(?\d{1,4}\)?){2,5}(?![\d.]?\d)", "[PHONE]"),  # an international number
    (r"(?<![\d.])(?:\d{1,3}[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])\d{3}[ .-]\d{4}(?![\d.]?\d)", "[PHONE]"),
    (r"(?<!\d)1[3-9]\d{9}(?!\d)", "[PHONE]"),  # a Chinese mobile number
    (rf"\b\d{{1,5}}[A-Z]? (?:[NSEW]\.? )?(?:{NAME} ){{1,3}}{STREET}", "[ADDRESS]"),
    (rf"\b(?:{MONTH} {DAY},? \d{{4}}|{DAY} {MONTH},? \d{{4}})\b", "[DATE]"),
    (r"(?<![\d/.-])(?:(?:19|20)\d\d([-/.])\d{1,2}\1\d{1,2}|\d{1,2}([-/.])\d{1,2}\2(?:19|20)\d\d)(?![\d/-])", "[DATE]"),
    (r"(?:19|20)\d\d ?年 ?\d{1,2} ?月 ?\d{1,2} ?[日号]", "[DATE]"),
    (
        rf"\b(Mr|Mrs|Ms|Miss|Dr|Prof|Professor)(\.? )(?:[A-Z]\. ?|v[ao]n |de[rl]? ){{0,3}}{NAME}(?: {NAME})?",
        r"\1\2[NAME]",
    ),
    (rf"{SURNAME}[\u4e00-\u9fff]{{0,2}}?(先生|女士|小姐)", r"[NAME]\1"),
]
ANONYMISE = [(re.compile(pattern), tag) for pattern, tag in ANONYMISE]


def anonymise(text: str) -> str:
    """What names or traces a person as tags (section 3.1): see `ANONYMISE`; everything else unchanged.

    >>> anonymise("Mrs. Jones, 54, takes 500 mg; call 555-123-4567.")
    'Mrs. [NAME], 54, takes 500 mg; call [PHONE].'
    """
    for pattern, tag in ANONYMISE:
        text = pattern.sub(tag, text)
    return text
