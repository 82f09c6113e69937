"""Doubts: how a sentence can name a thing and yet not assert it. One row of `KINDS` per kind of doubt.

A row has the words to look for first, the roles that it concerns, and patterns: in the clause, before the name, after
it. What a linked thing is for the page's subject (its role) decides which doubts matter: "may cause" is the ordinary
way to state a side effect and a weak way to recommend a treatment; negation means nothing in a list of
contraindications.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import NamedTuple

# What a relation says that the linked thing is for the page's subject: doubts depend on that, not on the direction.
ROLES = {
    ("treated_by", False): "remedy", ("treated_by", True): "indication",
    ("prevented_by", False): "remedy", ("prevented_by", True): "indication",
    ("diagnosed_by", False): "test", ("diagnosed_by", True): "tested",
    ("symptom", False): "effect", ("complication", False): "effect", ("adverse_effect", False): "effect",
    ("cause", True): "effect", ("mechanism", True): "effect", ("affects", True): "effect",
    ("cause", False): "origin", ("risk_factor", False): "risk",
    ("symptom", True): "origin", ("adverse_effect", True): "origin",
    ("mechanism", False): "process", ("affects", False): "organ", ("differential", False): "differential",
    ("contraindication", False): "barred", ("interaction", False): "barred",
    ("belongs_to", False): "class", ("belongs_to", True): "class",
}  # fmt: skip
BARRED = {"barred"}  # "must not be given in asthma" states a contraindication: negations mean nothing there
STATED = set(ROLES.values()) - BARRED
REMEDY, ADVICE = {"remedy"}, {"remedy", "test"}
USED = {"remedy", "test", "indication", "tested"}
ORIGIN = {"origin", "risk"}

# Gaps between the words of doubt and the name: what stands between must not end the reach of those words.
MEANS = r"(?:(?!\b(?:by|with|using|via|through|is|are|can|may|should|must|treat\w*|gives?n?|used|then)\b)[^;.]){0,200}"
STOP = (
    r"\b(?:treat\w*|reliev\w*|manag\w*|control\w*|help\w*|used|gives?n?|requir\w*|needs?|receive|should|must|offer\w*"
)
STOP += r"|by|with|using|via)\b"
REACH = rf"(?:(?!{STOP})[^;]){{0,300}}"
EFFECT_REACH = r"(?:(?!\b(?:is|are|was|were|by|due|from|includ\w*|lead\w*|caus\w*|of which)\b|:)[^;]){0,200}"
NO_VERB = r"(?:(?!\b(?:may|can|might|could|includ\w*|occur\w*|report\w*|experienc\w*|develop\w*"
NO_VERB += r"|cause[sd]?|lead\w*|is|are|has|have)\b)"
PEOPLE = r"(?:patients?|people|persons?|those|individuals|children|adults|adolescents|women|men"
PEOPLE += r"|infants|neonates|subjects|users|someone)"
ANYBODY = rf"\b{PEOPLE}\b"
ANIMALS = (
    r"(?:mice|mouse|rats?|rodents?|animals?|dogs?|cats?|horses?|cattle|cows?|calves|pigs?|swine|sheep|goats?|monkeys?"
)
ANIMALS += r"|avian|primates?|rabbits?|livestock|poultry|chickens?|birds?|fish|hamsters?|ferrets?)"
GOOD = r"(?:benefits?|evidence|effects?|efficacy|effectiveness|value|use|success|improvement|difference|advantage|proof"
GOOD += r"|support|role|help|results?|data|penetration|activity)"
WORSE = r"(?:worsen\w*|aggravat\w+|exacerbat(?:e|es|ed|ing)\b|deteriorat\w+|provok\w+|precipitat\w+|trigger\w*"
WORSE += r"|induc(?:e|es|ed|ing)\b"
WORSE += (
    r"|brings? on|brought on|sets? (?:\w+ ){0,3}off|mak(?:e|es|ing) (?:[\w'-]+ ){1,5}worse|made (?:[\w'-]+ ){0,5}worse)"
)

LESS = r"(?:decreas(?:e|es|ed)|declines?|reduc(?:tions?|ed)|diminish\w*)"


class Kind(NamedTuple):
    """One kind of doubt. A name that has one of the `roles` is not asserted if a pattern matches: in its clause, right
    before it or right after it. `words` are what to look for first, and stand wherever a pattern matches."""

    name: str
    roles: set[str]
    words: str
    clause: str = ""
    before: str = ""
    after: str = ""
    unless: str = ""  # a match of this in the clause takes the doubt away

    def raised(self, before: str, after: str) -> bool:
        """Whether it is, given the parts of the clause before and after the name in small letters."""
        clause = f"{before} {after}"
        found = (
            self.clause and pattern(self.clause).search(clause)
            or self.before and pattern(self.before, "$").search(before)
            or self.after and pattern(self.after).match(after)
        )  # fmt: skip
        return bool(found) and not (self.unless and pattern(self.unless).search(clause))


@cache
def pattern(text: str, end: str = "") -> re.Pattern:
    return re.compile(f"(?:{text}){end}")


KINDS = [
    Kind(
        "negation",
        STATED,
        r"\bno(?:t|r|ne)?\b|n't|never|neither|absence of|free of|cannot",
        clause=r"\bnot\b(?! (?:only|always|fully|completely|entirely|uncommon|unusual|rare|infrequent|respond"
        r"|tolerat|improve|enough|just|limited))"
        r"|n't\b|\b(?:never|neither|nor|none|cannot|absence of|free of)\b|(?<!little or )\bno\b(?! longer"
        r"| later)",
    ),
    Kind(
        "without it",
        STATED,
        r"without|free\b|non|anti|seldom|hardly",
        before=r"\bwithout(?: an?| any)?(?: \w+ of)?\s{0,9}|\b(?:non|anti)-?|\b(?:seldom|hardly) (?:any )?",
        after=r"[\s-]{0,9}free\b",
    ),
    Kind("like it, or depending on it", STATED | BARRED, r"like\b|dependent", after=r"[\s-]?-like\b|[\s-]dependent\b"),
    Kind(
        "part of another name",
        {"remedy", "indication", "origin", "risk", "effect", "differential"},
        r"metabolite|receptor|agonist|antibod|antigen|precursor|transporter|syringe|needle|portal|pulmonary"
        r"|intracranial",
        before=r"\b(?:portal|pulmonary|intracranial) (?:vein |venous |artery |arterial )?",
        after=r"[\s-](?:metabolites?|receptors?|(?:receptor )?(?:ant)?agonists?|antibod(?:y|ies)"
        r"|antigens?|precursors?|transporters?|syringes?|needles?)\b",
    ),
    Kind(
        "unlikely or disputed",
        STATED,
        r"unlikely|improbable|disprove|unprove|once thought|wrong|controvers|discredit|unrelated|unclear"
        r"|spurious|refut|disput|substantiated|uncertain|unknown|debate|question|var(?:y|ies|ied)\b|differs?\b|conflict"
        r"|mixed"
        r"|little|not |in the past|fail",
        clause=r"\b(?:unlikely|improbable|(?:dis|un)prove[nd]?|once thought|wrongly|controvers\w+|discredited"
        r"|unrelated to|spurious\w*|refuted|disputed|unsubstantiated|not substantiated)\b"
        r"|\b(?:unclear|unknown|uncertain|debated?|questions?|controvers\w+)\b[^;,]{0,30}\b(?:if|whether)\b"
        r"|\b(?:unclear|unknown|uncertain) which\b"
        r"|\bnot (?:\w+ )?(?:confirmed|established|proven)\b|\bin the past\b"
        r"|\b(?:role|efficacy|effectiveness|benefits?|relationship|association)\b[^;,]{0,80}\b(?:is|are|remains?)"
        r" (?:\w+ )?(?:unclear|uncertain|unknown|disputed|debated)\b"
        r"|\b(?:recommendations?|opinions?|evidence|results)\b[^;,]{0,60}\b(?:var(?:y|ies|ied)|differs?|conflicts?"
        r"|(?:is|are) mixed)\b"
        r"|\blittle (?:interaction|association|relationship|correlation|connection|link)\b"
        r"|\bconflicting (?:results|evidence|data|findings)\b"
        r"|\bfail(?:s|ed)? to (?:identify|show|find|demonstrate|confirm|support|detect)\b",
    ),
    Kind(
        "no benefit",
        USED,
        r"\bno\b|little|limited|minimal|doubtful|insufficient|questionable|without|lack|enough|weak|scant|small|some"
        r"|conflict|contradict|inconclusive|fail"
        r"|in vain|avail|unsuccess|disappoint|ineffect|useless|unhelp|futil|elusive|worthless|hard to"
        r"|difficult|impossible|nothing|uninformative|poor|not improve|less|rarely|seldom|hardly|barely",
        clause=r"\b(?:no|little|limited|minimal|doubtful|insufficient|questionable|without|lack(?:s|ed"
        r"|ing)?(?: of)?|not enough|weak|poor|scant|conflicting|contradictory|inconclusive)"
        rf" (?:[\w-]+ ){{0,3}}{GOOD}\b|\b(?:fail(?:s|ed|ing)? to|in vain|of no avail|unsuccessful\w*"
        r"|disappointing\w*|ineffective|useless|unhelpful|futile|elusive|worthless"
        r"|unavailable|inconclusive|contradictory|uninformative"
        r"|(?:less|small amounts? of) (?:\w+ )?evidence"
        r"|evidence(?:-based)? (?:[\w-]+ ){0,12}(?:is|are) (?:lacking|limited|weak|poor))\b"
        r"|\b(?:hard|difficult|impossible) to (?:make|develop"
        r"|produce|create|find|achieve|obtain|treat with)\b"
        r"|\bless (?:well )?tolerated\b|\bthere has been some success\b"
        r"|\bnot improve (?:the )?(?:results?|outcomes?|survival|prognosis)\b"
        r"|\b(?:does|do|did|has|have|had|could|can|will|would) (?:little|nothing)\b|\b(?:rarely|seldom"
        r"|hardly|barely) (?:\w+ ){0,2}(?:effective|useful|helps?|helpful|works?|used|need(?:ed)?|indicated"
        r"|necessary|beneficial)\b",
    ),
    Kind(
        "made worse",
        REMEDY,
        r"wors|aggravat|exacerb|deteriorat|provok|precipitat|trigger|induc|bring|brought|sets? |harmful"
        r"|dangerous|risk|caus|contribut|linked|associated|correlat|culprit|offend|increas|may ",
        before=r"\b(?:worsen|aggravat|exacerbat|deteriorat)\w* (?:with|by|on|after|under) (?:[\w-]+ ){0,2}"
        r"|\b(?:caused|induced) by (?:[\w-]+ ){0,3}"
        rf"|\b(?:{WORSE}|caus(?:e|es|ing)\b(?! of)|contribut\w+ to|increas\w+ the (?:risk|rate|chance)"
        rf"|risk factors?|culprits?|offending){REACH}",
        after=rf"(?:(?!{STOP}|\bthat\b|\bwhich\b|\bfor\b)[^;]){{0,120}}?\b(?:{WORSE}|caus(?:e|es) (?:the|it|this"
        r"|attacks)\b|increas\w+ the (?:risk|rate|chance|severity)|is harmful|are harmful|dangerous)"
        rf"|(?:(?!{STOP})[^;]){{0,120}}?\b(?:linked|associated|correlat\w+) (?:with|to)\b"
        r"|[^;]{0,120}?\b(?:linked|implicated|identified) as an? (?:\w+ )?(?:cause|trigger|risk factor)\b"
        r"|[^;]{0,200}?\bmay (?:actually|even|paradoxically|in fact) (?:promote|cause|worsen|increase|lead|raise"
        r"|induce)\b",
    ),
    Kind(
        "harm named among uses",
        {"indication"},
        r"caus|lead|led to|result|induc|trigger|wors|aggravat|provok|precipitat|produc|risk|exacerb"
        r"|associated|side effect|toxic|sets?|bring|brought|deteriorat|higher|raises?",
        before=r"(?:\b(?:caus(?:e|es|ing)\b(?! by| of)|leads? to|leading to|led to|results? in|resulting in"
        rf"|produc(?:e|es|ing)|associated with|side effects?|toxic\w*|{WORSE}"
        r"|(?<!reduc)(?<!lower)(?<!prevent)\b(?:increas\w+|higher|raises?) (?:the )?(?:risk|rate"
        rf"|chance)s? of|(?:due to|because of|given|with|carr(?:y|ies)|at) (?:an? |the )?(?:[\w-]+ )?risks? (?:of|for))"
        rf"(?:(?!{STOP}|\bprevent\w*|\breduc\w*)[^;]){{0,200}})",
        unless=r"\b(?:caused by|due to (?!(?:an? |the )?(?:\w+ )?risk))\b",
    ),
    Kind(
        "avoided or stopped",
        USED,
        r"avoid|stop|discontinu|withdr|withh|ceas|cessation|abst|refrain|restrict|eliminat|omit|minimi|taper"
        r"|wean|switch|cut|quit|remov|taken off|alternative|instead|rather|harmful|contraindic"
        r"|less|lower|fewer|limit|reduc|decreas|need|ingredient|unsafe|dangerous|toxic|abandon|not|abus|misus|overus"
        r"|overdos|contra-",
        before=r"\b(?:avoid(?:s|ed|ing)?|stop(?:s|ped|ping)?|discontinu(?:e|es|ed|ing)|withdraw(?:s|n|ing)?"
        r"|withdrew|withh[eo]ld\w*|ceas\w+"
        r"|(?:cessation|restriction|elimination|abstinence|avoidance|withdrawal|discontinuation"
        r"|(?<!surgical )removal) (?:of|from)"
        r"|abstain\w*|refrain\w*|restrict(?:s|ed|ing)?|eliminat(?:es?|ed|ing)|omit\w*|minimi[sz]\w+"
        r"|taper\w*|wean\w*|switch\w* from|cut(?:ting)? (?:out|down|back)|quit\w*|remov(?:e|es|ing)"
        r"|taken off|alternatives? to"
        r"|(?:reduc\w*|decreas\w*|limit\w*|less|lower\w*|fewer) (?:the )?(?:dose|intake|use|consumption|need"
        r"|number|amount|severity|risk|rate)s?(?: of| for)?|(?:needs?|needed|needing|uses?|requir\w+) (?:less|fewer)"
        rf"|the need for|ingredients of)\b{MEANS}"
        r"|\b(?:avoided|stopped|discontinued|withheld|contra-?indicated|harmful|unsafe"
        r"|dangerous)\b.{0,300}\b(?:includ\w+|such as|e\.g|namely|among them|examples?)\b[^;.]{0,200}",
        after=r"[^;.]{0,200}?\b(?:(?:is|are|be|been|being|was|were) (?:\w+ ){0,2}(?:avoided|stopped|discontinued"
        r"|withheld|withdrawn|contra-?indicated|harmful|ceased|restricted|eliminated"
        r"|omitted|unsafe|dangerous|toxic|abandoned)|cannot)\b|[\s-]{0,9}(?:cessation|withdrawal|avoidance"
        r"|abstinence|discontinuation|restriction|elimination|abuse|overuse|misuse|overdose)\b",
    ),
    Kind(
        "no longer",
        USED,
        r"no longer|former|previous|histor|once|past|used to be|until|obsolete|outdated|abandon|supersed"
        r"|supplant|withdrawn|fallen|fell|\b1\d\d\d|century|ancient|medieval|tradition|was|were|replac|displac|succeed",
        clause=r"\b(?:no longer|formerly|previously(?! (?:healthy|treated|untreated|diagnosed|un\w+|infected"
        r"|exposed))|historically|once (?:used|given|common\w*|popular|widely|considered)|in the past"
        r"|used to be"
        r"|until (?:the|recently|\d)|obsolete|outdated|abandoned|superseded|supplanted|withdrawn from"
        r"|fallen out|fell out|in (?:the )?1[5-8]\d\ds?|(?:1[5-9]th|early 20th) century"
        r"|ancient|medieval|(?:was|were|been) traditionally)\b",
        before=r"\bprevious (?:\w+ )?|\b(?:has|have|had|largely|gradually|now|is|are) (?:replac|supersed|supplant"
        r"|displac)(?:ed|es|ing"
        r"|e)\b(?! by| with)[^;]{0,60}",
        after=r"[^;]{0,60}?\b(?:replaced|superseded|supplanted|displaced|succeeded) by\b|[^;]{0,40}?\b(?:was"
        r"|were) (?:[\w-]+ ){0,2}(?:used|given|employed|prescribed|administered|tried"
        r"|advocated|popular|recommended|practi[cs]ed|the (?:standard|main|first))\b",
    ),
    Kind(
        "resistance",
        USED,
        r"resist|insensitiv|refractory|respon|insuscept|intoler|allerg|hypersens|toleran",
        before=r"\b(?:resist\w*|insensitiv\w*|refractory|unresponsive|non-?responsive|insusceptible|intoleran\w+"
        rf"|allerg\w+|hypersensitiv\w*|toleran(?:t|ce)) (?:to|of|for|against)\b{MEANS}"
        r"|(?<!who )(?<!that )\b(?:do|does|did) not (?:\w+ )?respond to\b[^;.]{0,120}",
        after=r"[\s-]{0,9}(?:\w+[\s-])?(?:resist\w*|refractory|unresponsive|intoleran\w+|allerg\w+|insensitiv\w*)\b",
    ),
    Kind(
        "trigger or risk group",
        ADVICE,
        r"risk|exposed|exposure|contact|trigger|precipit|provok|culprit|offend|transmi|spread|acquir"
        r"|(?:route|mode|source|means) of|candidate|recipient|survivor|" + ANYBODY,
        before=r"\b(?:at (?:\w+ )?risk|high-risk|risk groups?|risk factors?|exposed to|exposure to|contact with"
        r"|triggers?|triggered|triggering|precipitat\w+|provok\w+|culprits?"
        rf"|offending|transmitted|transmission|spread|acquired)\b{REACH}|\b{PEOPLE} (?:[\w-]+ ){{0,3}}(?:on"
        r"|taking|using|receiving|undergoing|who (?:undergo|take|took|use|used|have (?:had|received)"
        r"|receive))\b[^;,]{0,80}",
        after=r"[^;]{0,60}?\b(?:mode|route|source|means) of (?:transmission|infection)\b"
        r"|\s(?:patients|candidates|recipients|survivors)\b",
    ),
    Kind(
        "patient group",
        {"indication"},
        ANYBODY,
        before=r"\b(?:treat\w*|prevent\w*|reduc\w*|reliev\w*|control\w*|manag\w*|prophyla\w*|improv\w*|pain|fever"
        r"|infections?|symptoms?) \b[^;]{0,200}\b(?:in|among"
        rf"|for) (?:[\w-]+ ){{0,4}}{PEOPLE}(?: [\w-]+){{0,2}}"
        r" (?:with|who|having|suffering|infected|affected|undergoing|recovering)\b[^;]{0,100}",
    ),
    Kind(
        "advised against",
        USED,
        r"against|discourag|inadvis|inappropriate|unnecess|unwarrant|indicat|unsafe|over(?:us|treat|prescri)"
        r"|misus|misdiag|not ",
        clause=r"\b(?:advis\w+|recommend\w*|caution\w*|warn\w*|argu\w+|counsel\w*|guard|spoke|speaks?"
        r"|decid\w+) (?:[\w-]+ ){0,2}against\b|\bdiscouraged?\b|\b(?:inadvisable|inappropriate|unnecessary"
        r"|unwarranted|contra-?indicated|unsafe|overus\w+|overtreat\w+|overprescri\w+|misus\w+)\b",
    ),
    Kind(
        "exception",
        STATED | BARRED,
        r"except|other than|exclud|save for|barring|not including|but not|unless|with the exception",
        before=r"\b(?:except(?:ing|ions?)?|other than|exclud\w+|save for|barring|not including|but not"
        r"|unless)\b[^;.)]{0,120}",
    ),
    Kind(
        "lack of it",
        STATED,
        r"deficien|lack|absen|minimal|insufficien|shortage|\blow|reduc|decreas|inadequa|deplet|withdraw|loss|depriv"
        r"|poor|deficit|defect|faulty|impair|starvation|cessation|metabolism",
        before=r"\b(?:(?:deficien\w+|insufficien\w+|shortage|absence|depletion|deficits?|deprivation|withdrawal"
        r"|cessation|lack|(?:low|reduced|decreased|inadequate|poor|insufficient|lower|faulty|impaired|defective)"
        r" (?:\w+ )?(?:levels?|intake|amounts?|quantit(?:y|ies)|concentrations?|supply|production|activity|absorption"
        r"|metabolism|responsiveness)) (?:of|in|to|from) (?:(?!\b(?:is|are|caus\w*|lead\w*|result\w*)\b)[^;.:]){0,60}"
        r"|(?:loss of|lacks|lacking|decreas\w+ in|low|reduced|decreased|inadequate|insufficient|deficient"
        r"|defective|deficient in|low in|minimal) (?:[\w-]+ ){0,2})",
        after=r"(?: \([^)]{0,30}\))?(?:,? (?:and|or) (?:[\w-]+ ){0,2}[\w-]+|, [\w -]{1,30}){0,3}[\s-]{0,9}(?:levels? )?"
        r"(?:deficien\w+"
        r"|insufficien\w+|deplet\w+|shortage|starvation|deprivation|deficits?|withdrawal"
        r"|metaboli\w+ defects?|metabolism)\b",
    ),
    Kind(
        "what the remedy acts on",
        REMEDY,
        r"release|secretion|produc|synthesis|uptake|breakdown|action|activity|formation|absorption|levels?|excess"
        r"|elevated"
        r"|too much",
        before=r"\b(?:excess(?:ive)?|too much|elevated|producing) (?:\w+ ){0,2}|\b(?:decreas|reduc|inhibit|block"
        r"|suppress|lower|increas|stimulat|rais|prevent)\w* (?:the )?(?:\w+ )?"
        r"(?:release|secretion|production|synthesis|(?:re-?)?uptake|breakdown|action|activity|formation|absorption"
        rf"|levels?) of\b{MEANS}",
        after=r" (?:production|synthesis|secretion|release)\b",
    ),
    Kind(
        "what the remedy is made from, or works beside",
        REMEDY,
        r"related|deriv|analog|an(?:a)?esthesia|sedation|elective",
        before=r"\b(?:related to|deriv(?:ed from|ati(?:ve|on)s? of)|analog(?:ue)?s? of) (?:[\w-]+ ){0,2}"
        r"|\b(?:an(?:a)?esthesia|sedation)\b[^;,]{0,30}\b(?:with|using|by) (?:[\w-]+ ){0,2}|\belective ",
    ),
    Kind(
        "measured, not given",
        REMEDY,
        r"tests?\b|testing|measur|monitor|assays?|screen|levels?|concentrations?|status|diagnosed|discovered|detected",
        before=r"\b(?:diagnosed|discovered|detected) (?:\w+ )?(?:during|at|after|by|on) (?:\w+ )?|\b(?:tests?|testing"
        r"|measur\w+|monitor\w*|assays?|screening|levels?|concentrations?) (?:for|of)\b"
        rf"{MEANS}",
        after=r" (?:levels?|concentrations?|status|tests?|assays?)\b",
    ),
    Kind(
        "used to exclude others",
        {"test"},
        r"rul(?:e|ing) out|exclud|distinguish|differentiat",
        after=r"[^;,.]{0,80}\bused to (?:\w+ ){0,3}(?:rule out|exclude) other|\s\(?to (?:rule out|exclude) "
        r"|[^;]{0,150}?\b(?:(?:rul(?:e|ing) out|exclud(?:e|ing)) (?:an? |the )?(?:other|alternat\w+)"
        r"|(?:distinguish\w*|differentiat\w+)\b[^;.]{0,60}\b(?:other|causes))\b",
        unless=r"\b(?:confirm\w*|establish\w*)\b",
    ),
    Kind(
        "finds what comes of it, or how far it has come",
        {"test"},
        r"complication|evidence|signs|degree|extent|severity|size|stage|other |progress|response|course",
        before=r"\b(?:identify|detect\w*|(?:look|check|screen)\w* for) complications\b[^;]{0,80}",
        after=r"[^;]{0,80}?\b(?:(?:identify|detect|indicat|reveal)\w*|(?:look|check|search|screen|monitor)\w* for"
        r"|assess\w*|evaluat\w*) (?:the )?(?:\w+ )?(?:complications|(?:evidence|signs) (?:of|that) [^;.]{0,40}"
        r"\b(?:damage|strain|enlarge\w*|failure|dysfunction)|other (?:conditions|diseases|disorders))\b"
        r"|[^;.,]{0,60}?\bto (?:assess|determine|measure|evaluate|estimate) (?:the )?(?:degree|extent|severity|sizes?"
        r"|stage)\b|[^;.]{0,60}?\bto (?:monitor|follow|track) (?:the )?(?:progress|response|course)\b",
        unless=r"\b(?:confirm\w*|establish\w*|for (?:differential )?diagnosis)\b",
    ),
    Kind(
        "another test's means",  # "X-ray verification of its position", "CT, which uses X-rays"
        {"test"},
        r"uses|before|placed|inserted|setting|verification|guid|technique|risk",
        before=r"\b(?:which|that) uses (?:an? |the )?(?:[\w-]+ )?"
        r"|\b(?:placed|inserted) (?:\w+ )?(?:using|by|via|through|with|during) (?:an? )?|\bin the setting of (?:an? )?",
        after=r" (?:verification|guidance|guided)\b| techniques? (?:used|that|which)\b"
        r"| (?:has|have|carr(?:y|ies)) (?:an? |the )?(?:\w+ )?risks? of\b",
    ),
    Kind(
        "not yet there",  # "before the advent of antibiotics", "prior to any physical examination"
        ADVICE,
        r"develop|advent|introduc|invent|discover|before|prior to",
        before=r"\b(?:before|until|prior to|since) the (?:development|advent|introduction|invention|discovery) of"
        r" (?:[\w-]+ ){0,2}|^\W{0,3}(?:before|prior to) (?:any |an? |the )?(?:[\w-]+ )?",
    ),
    Kind(
        "what comes after it",  # "after surgery, the scar is massaged"
        REMEDY,
        r"after|following|recover|risk|\bside\b|adverse|cause",
        before=r"(?<!before and )\b(?:(?:after|following|recovery (?:from|after)|risks? of) (?:the |an? )?"
        r"(?:open |major |such )?(?:[a-z]+ )?"
        r"|(?:side|adverse) effects? of (?:the )?(?:[\w-]+ )?)",
        after=r"[^;.,]{0,40}? (?:can|may) (?:also )?cause\b",
    ),
    Kind(
        "given with care, for a while, or rarely",
        {"remedy", "indication"},
        r"caution|care\b|careful|temporar|rare|occasional|exceptional",
        clause=r"\bin (?:very )?(?:rare|occasional|exceptional) cases\b",
        before=r"\b(?:care|caution) (?:must|should|has to|needs to|is to) be (?:taken|exercised|used)\b[^;]{0,80}"
        r"|\btemporary (?:measures?|treatments?)\b[^;]{0,120}",
        after=r"[^;.,]{0,40}? (?:must|should|has to|have to) be (?:used|given|prescribed|administered) (?:\w+ )?"
        r"(?:carefully|cautiously|with (?:\w+ )?(?:care|caution))\b",
    ),
    Kind(
        "told of one study",
        {"remedy", "indication"},
        r"stud|trial|patient|team|reports|series|investigations|recent",
        clause=r"\b(?:one|a|another) (?:(?:recent|new|small|large|single|further|previous|pilot|clinical|case"
        r"|randomi[sz]ed|controlled|\d{4}) ){0,3}(?:study|trial)\b|\bsmall (?:\w+ )?(?:trials|studies|case series)\b"
        r"|\b(?:a|one) team of\b|\bthere (?:are|have been) (?:also )?(?:reports|investigations)\b"
        r"|\bstudies have reported\b|\bsome studies (?:show|suggest|found|have)\b"
        r"|\bin the first (?:\w+ )?(?:trial|study)\b|\brecently been (?:shown|reported|found)\b",
    ),
    Kind(
        "found in one study",
        {"origin"},
        r"stud|paper|evidence|relationship|thought|possible|patients|people|persons|cases",
        clause=r"\b(?:one|an?|another|in \w+|recent|other|some|several|few) (?:[\w-]+ )?(?:study|studies|paper)\b"
        r"|\bfound evidence\b|\bin \d+ (?:patients|people|persons|cases)\b"
        r"|\bthought to be (?:involved|implicated|associated|related)\b|\bit is possible that\b"
        r"|\brelationship between\b",
    ),
    Kind(
        "linked with it only",  # "Gout has been associated with obesity": what else the subject's patients have
        {"origin"},
        r"associated|linked|correlated",
        clause=r"\b(?:conditions|disorders|diseases|problems) are (?:\w+ )?associated\b(?! with)",
        before=r"\b(?:has|have) (?:\w+ )?been (?:\w+ )?(?:associated|linked|correlated) (?:with|to)"
        r"(?! (?:the )?(?:use|following)\b)(?:(?!\bincluding\b)[^;]){0,80}",
    ),
    Kind(
        "makes it only worse",
        {"origin"},
        r"accelerat|aggravat|exacerbat|worsen",
        before=r"\b(?:accelerat|aggravat|exacerbat|worsen)\w* by [^;]{0,60}",
        clause=r"\b(?:can|may|might) (?:worsen|aggravate|exacerbate)\b",
        after=r"[^;.]{0,60}?\b(?:is|are) an? (?:aggravat|exacerbat)\w*",
        unless=r"\bcaus(?:e|es|ed|ing)\b|\bpredispos\w+",
    ),
    Kind(
        "what foretells it, or goes with something else",
        {"effect"},
        r"predict|another|would",
        clause=r"\banother study\b|\bwould (?:most likely|probably|theoretically)\b"
        r"|^\W{0,3}another (?:\w+ ){0,2}(?:syndrome|disease|disorder|condition)\b",
        before=r"\bpredict(?:ors?|ive) of\b[^;.]{0,200}",
    ),
    Kind(
        "in a case that may not come",
        {"effect"},
        r"\bif\b",
        before=r"\bif (?:they|it|these) (?:[\w-]+ ){0,3}(?:caus|produc|lead)\w* (?:to )?(?:[\w-]+ ){0,3}",
    ),
    Kind(
        "only named",  # "has the synonym ..."
        {"effect", "origin"},
        r"term|synonym",
        before=r"(?<!long )(?<!short )\b(?:terms?|synonyms?)\b[^;.]{0,80}[\"“](?! )[\w ]{0,20}",
    ),
    Kind(
        "only defined",  # "Benzodiazepines, including lorazepam, are types of anti-anxiety medications."
        REMEDY,
        r"types|kinds|forms|classes|members|examples",
        after=r"[^;]{0,80}\bare (?:types|kinds|forms|classes|members|examples) of (?:[\w-]+ ){0,3}"
        r"(?:medic\w+|drugs?|agents?)\W*$",
    ),
    Kind(
        "how something else is given",
        REMEDY,
        r"administ|giv|deliver",
        before=r"\b(?:administer|deliver|giv(?:e|ing)\b)\w* (?:[\w-]+ ){1,3}(?:using|by|via|through|during)"
        r" (?:an? )?(?:[\w-]+ or )?",
    ),
    Kind(
        "a condition, not the advice",
        REMEDY,
        r"\bif\b",
        before=r"\bif\b(?! (?:need|necessary|possible|required|indicated|tolerated|not\b))[^,;:(]{0,150}",
        unless=r"\b(?:prevent(?:able|ed)|effective|cur(?:ed?|able)|improve\w*|helpful|successful)\b",
    ),
    Kind(
        "to exclude others",
        {"test"},
        r"rul(?:e|ed|es|ing) |exclu",
        clause=r"\b(?:rul(?:e|es|ed|ing) (?:[\w-]+ ){0,3}out|(?:to|can|may|by|and) exclud(?:e|ing))\b",
        unless=r"\b(?:confirm\w*|diagnos(?:e|es|ed|is|tic)|establish\w*|detect\w*|reveals?|shows?|demonstrat\w*)\b",
    ),
    Kind(
        "treated, not caused",
        ORIGIN | {"effect"},
        r"treat|reliev|used|reduc|lower|decreas|protect|prevent|improv|alleviat|fewer|less|indicat|prescrib"
        r"|requir|therap|reserved|manage|\bfor |recommended|regimen|help|disappear|resolv|regress",
        before=r"\b(?:(?:management|treatment|therapy) (?:\w+ )?(?:includes?|consists?|involves?|is with)"
        r"|treatable (?:with|by)"
        r"|(?:disappear|resolv|regress)\w*\b[^;]{0,40} (?:following|after|with|on)|treat(?:s|ed|ing"
        r"|ment)?(?: \w+)? (?:of|with|for|by)|treats|treating|reliev\w+"
        r"|protects? against|prevents?|prevention of|alleviat\w+|indicated (?:for|in)|prescribed (?:for|to)"
        r"|used (?:for|to (?:treat|decrease|reduce|relieve|control|numb|ease)|in|as)"
        r"|(?:reduc\w+|lower\w*|decreas\w+|less|fewer) (?:the )?(?:\w+ )?(?:risk|rate|incidence|chance"
        r"|severity|frequency)s? of|therapy (?:of|for)|reserved for"
        r")\b"
        r"(?:(?!\b(?:may|can|might|caus\w*|lead\w*|result\w*|includ\w*|is|are)\b)[^;:]){0,120}"
        r"|\bprotective (?:effects?|factors?)\b[^;]{0,120}|\((?:e\.g\.?,? )?(?:[\w-]+ ){0,3}for [^;:)]{0,60}"
        r"|\bfor (?:conditions|disorders|diseases|problems) (?:including|such as)\b[^;,]{0,80}",
        after=r"[^;]{0,40}?\b(?:is|are) (?:used (?:to|for|in) (?:treat|control|the treatment|reliev)"
        r"|(?:\w+ )?recommended)"
        r"| (?:regimens?|can be (?:an? )?(?:good )?help)\b",
    ),
    Kind(
        "patients of another disease",
        {"effect"},
        ANYBODY + r"|affected by|history|pre-?exist|predispos|underlying|common in|frequent in|prior|caution",
        before=r"\b(?:(?:in|among|for|by|to|more common"
        rf"|frequent) (?:[\w-]+ ){{0,3}}{PEOPLE} (?:[\w-]+ ){{0,3}}(?:with|who|having|suffering|treated"
        r"|taking|on)|affected by|history of|pre-?existing|predispos\w+|underlying|caution in)\b"
        rf"{NO_VERB}[^;,]){{0,120}}|\b{PEOPLE} (?:with|who have"
        r"|taking)\b[^;]{0,120}\((?:e\.g\.?,? )?(?:for )?[^;)]{0,60}"
        rf"|\b{PEOPLE} (?:with|who have|having|suffering from) (?:[\w-]+ ){{0,2}}|\b{PEOPLE} (?:who "
        r"|that )?(?:tak\w+|on|receiv\w+|us(?:e|ing)|given"
        r"|treated with) [^;,]{0,60}\bfor (?:[\w-]+ ){0,3}",
    ),
    Kind(
        "an example of another disease",
        {"effect"},
        r"such as|like\b|other ",
        before=r"\b(?:if|when|who|with)\b[^,;]{0,60}\b(?:ill with|(?:disease|illness|condition|disorder|problem)s?)"
        r" (?:such as|like) [^,;]{0,60}"
        r"|\bassociated with (?:[\w-]+ ){0,4}other (?:[\w-]+ )?(?:conditions|diseases|disorders)\b[^;]{0,200}",
    ),
    Kind(
        "origin, not effect",
        {"effect"},
        r"caused by|due to|because|secondary to|result of|resulting from|arising|owing|preced|following"
        r"|after|history|triggered|precipitated|exacerb|worsened|worse by|aggravat"
        r"|provoked|relieved|prevented|be related"
        r"|anteced|cause"
        r"|prior to|before|rul(?:e|ed|ing) out",
        before=r"\brul(?:e|ed|ing) out\b[^;]{0,300}|\b(?:caused by|due to|because of|secondary to|as a result of"
        r"|resulting from|arising from|owing to"
        r"|(?:might|may|could) be related to|(?:exacerbated|worsened|made worse|aggravated|provoked|relieved"
        r"|prevented) by"
        r"|triggered by|precipitated by|preced\w+ by|history of|antecedent|causes (?:of [\w-]{1,30} )?"
        r"(?:(?:are|may|can|also|and|but|many|manifold|common) ){0,4}includ\w*)\b"
        r"(?:(?!\b(?:may|can|lead\w*|caus(?:e|es|ing)|develop\w*|occur\w*)\b)[^;]){0,160}|\b(?:prior to"
        r"|before) (?:the )?(?:onset|illness)\b[^;]{0,160}",
        after=r"[^;]{0,80}?\b(?:prior to|before) (?:the )?(?:onset|illness)\b",
    ),
    Kind(
        "illness of relatives",
        ORIGIN,
        r"relative|family",
        before=r"\b(?:(?:close|first-degree|blood) relatives?|family (?:history|members?))\b[^;]{0,120}",
    ),
    Kind(
        "effect, not origin",
        ORIGIN,
        r"caus|produc|induc|contribut|infection|effects|lead|led to|result|responsible|complicat|present|characteri"
        r"|accompan|associated finding|sympto|sign"
        r"|develop|manifest|concurrent|along with|together with|implies|abnormalit|anomal|malformat|feature|onset"
        r"|due to|resulting|consequent|ensuing|occur|ensue",
        before=r"(?:^|[,;]) ?(?:[\w-]+ ){0,3}(?:symptoms?|signs|features|manifestations"
        r"|effects)(?: of [\w-]+){0,3}(?: \w+)? includ\w*"
        r"[^;]{0,200}|\b(?:sudden|new|recent|acute) onset of (?:[\w-]+ ){0,2}"
        r"|\b(?:produc(?:e|es|ing)|induces?) (?:[\w-]+ ){0,4}|\b(?:resulting|consequent|ensuing) (?:(?!from )\w+ )?"
        r"|\b(?:caus(?:e|es|ing) (?!of|by)|contributing to|(?:the|this) infection (?:is"
        r"|may be|can be) associated with|responsible for|leads? to|leading to|led to|results? in|resulting in"
        r"|complicat\w+ (?:by|include)|present\w* with|characteri[sz]ed by|accompanied by"
        r"|associated findings"
        r"|signs? of|symptoms? (?:of|such as|like)|(?:abnormalities|anomalies|malformations|features)"
        r" (?:includ\w+|such as)|manifest\w* (?:as|by|with)|concurrent"
        rf"|implies){EFFECT_REACH}",
        after=r"[^;]{0,40}?\b(?:is|are) (?:\w+ ){0,2}complications? of\b| develops? (?:in|within)\b"
        r"|\s(?:occurs?|ensues?)\W*$"
        r"|(?: \([^)]{0,150}\))?(?:(?! (?:that|which) )[^;,.]){0,100}?\b(?:is|are|(?:may|can) be) (?:\w+ )?(?:due to"
        r"|caused by)\b"
        r"| (?:is|are) [^;.,]{0,100}\b(?:resulting from|caused by|due to)\b",
    ),
    Kind(
        "effect of a gene",
        ORIGIN,
        r"mutation|gene|deletion|allele|polymorphism|locus|loci",
        before=r"\b(?:mutations?|genes?|deletions?|alleles?|polymorphisms?|locus|loci)\b[^;.]{0,120}\b(?:caus(?:e|es"
        r"|ing)"
        r"(?! of| by)|(?:associated|linked) (?:with|to)|leads? to|results? in|responsible for|implicated in|phenotypes?"
        r"|encod\w+)\b(?:(?!\b(?:due|caused) )[^;]){0,200}",
    ),
    Kind(
        "found in its patients",
        ORIGIN,
        ANYBODY + r"|detected",
        before=r"\bdetected in (?:a (?:variety|number) of|other|several|various)\b[^;]{0,200}",
        after=r"[^;.]{0,60}?\b(?:occurs?|seen|found|present|observed|develops?) (?:\w+ ){0,2}(?:in|among) (?:\w+ ){0,2}"
        rf"{PEOPLE} (?:with|who have)\b",
    ),
    Kind(
        "another disease of the same cause",
        ORIGIN,
        r"other",
        before=r"\bother (?:[\w-]+ ){0,3}(?:diseases?|disorders?|conditions?|illness\w*|infections?)"
        r" (?:that )?(?:is |are )?(?:\w+ )?caused by\b[^;]{0,200}",
    ),
    Kind(
        "together with it",
        ORIGIN,
        r"co-?morbid|co-?occur|co-?exist|co-?infect|cross-?react|simultaneous|recorded with|often with",
        clause=r"\b(?:co-?morbid\w*|co-?occur\w*|co-?exist\w*|co-?infection\w*|cross-?react\w*|simultaneous\w*"
        r"|recorded with)\b",
        before=r", often with ",
    ),
    Kind(
        "class of what is named",  # "the Epstein-Barr virus, a member of the Herpesviridae"; "lupus: this disease"
        ORIGIN,
        r"member|belong|\bthis|one of",
        before=r"\b(?:members?|belong\w*) (?:of|to) (?:the )?(?:[\w-]+ ){0,3}|\bthis "
        r"|\bone of (?:an?|the) (?:group|family|class) of [^;,:]{0,80}",
    ),
    Kind(
        "named for a test, a patient or another disease",
        ORIGIN,
        r"test|screen|specific|risk|wom[ae]n|m[ae]n\b|boy|girl|excluded|ruled out",
        before=r"\b(?:tests?|testing|screening|specific) (?:for|to|of) (?:[\w-]+ ){0,3}"
        r"|\bspecific (?:for|to) [^;.]{0,40}, others (?:for|to) ",
        after=r"\s(?:wom[ae]n|m[ae]n|boy|girl)\b|\s(?:\w+ )?ha(?:ve|s) risk factors\b"
        r"|[^;.]{0,80}\bbe (?:excluded|ruled out)\b",
    ),
    Kind("presupposed", ORIGIN | REMEDY, r"despite", before=r"\bdespite (?:the )?(?:\w+ of )?(?:\w+ )?"),
    Kind("possible only", ORIGIN, r"possibl|perhaps", before=r"\b(?:possibly|perhaps) (?:\w+ ){0,2}"),
    Kind(
        "carried along with it",
        ORIGIN,
        r"transmi|carr|spread",
        before=r"\balso (?:\w+ )?(?:transmits?|carry|carries|spreads?)\b[^;]{0,100}",
    ),
    Kind(
        "a part of it",
        ORIGIN,
        r"component|criteri",
        before=r"\b(?:components?|criteria) (?:of|for)\b.{0,300}",
    ),
    Kind(
        "what the risk is of",
        ORIGIN,
        r"risk|cause|chance|likelihood|odds|susceptib",
        before=r"\b(?:risk (?:factors?|indicat\w+|scores?|markers?)|risks?|causes?|chances?|likelihood|odds"
        r"|susceptibility) (?:for|of|to)\b"
        r"(?:(?!\b(?:is|are|was|were|can|may|includ\w*|by|due|with|from|in|such|as|after)\b)[^;:]){0,80}"
        r"|\bha(?:ve|s|d) risk factors for\b[^;]{0,200}",
    ),
    Kind(
        "a form of it",  # "It is a form of candidiasis due to Candida albicans."
        {"origin"},
        r"form|type|variant|subtype|kind",
        before=r"\b(?:is|are) (?:an?|one|the) (?:[\w-]+ ){0,3}(?:form|type|variant|subtype|kind)s? of (?:an? |the )?",
    ),
    Kind(
        "another form of it",
        ORIGIN,
        r"form|type|variant|subtype|kind|categor|class|group|is (?:an?|one|the)|are (?:an?|one|the)|known as"
        r"|called|genus|order|member|famil|relat|they |it |render|under|, an? ",
        clause=r"\b(?:forms|types|variants|subtypes) (?:exist|are (?:known|recogni[sz]ed|distinguished|described))\b"
        r"|\b(?:they|it) (?:form|make up|belongs?)\b"
        r"|\b(?:there are|divided into|classified|exists? in|comes? in|has|have) (?:[\w-]+ ){0,3}(?:forms"
        r"|types|variants|subtypes|kinds|categories)\b",
        before=r"\b(?:is|are) (?:an?|one|the) (?:[\w-]+ ){0,4}|, an? (?:[\w-]+ ){0,2}|\brender(?:s"
        r"|ing) [\w -]{1,40} an? |\bfalls? under\b[^;]{0,80}"
        r"|\b(?:order|genus|family) \w+ \(|\b(?:forms?|types?|variants?|subtypes?|kinds?) (?:of"
        r"|is|are|include|called|known as|:)(?! (?:bacteri|virus|fung|parasit|infection|drug|medic|organism"
        r"|germ|cancer))[^;,]{0,40}"
        r"|\b(?:also (?:called|known as)|(?:sometimes|then) known as|(?:same|this|the) (?:genus|family|group)"
        r"|relatives?|related (?:to"
        r"|viruses|species|bacteria))\b[^;]{0,300}|\b(?:forms|types|variants|subtypes), (?:[\w'-]+ ){0,2}",
        after=r"(?: \([^)]{0,60}\))? (?:is|are) (?:an?|one|the) (?:[\w-]+ ){0,4}"
        r"(?:forms?|types?|kinds?|variants?|subtypes?) of\b",
        unless=r"\b(?:caused by|due to|results? from)\b",
    ),
    Kind(
        "comparison",
        STATED - {"differential"},
        r"unlike|rather|instead|contrast|mistaken|confus|\bthan\b|compar|similar|characteristic|resembl|mimic|akin"
        r"|as with|to consider|differential|distinguish|differentiat|distinct|different from|versus|\bvs\b|opposed"
        r"|equivalent|\bas \w+ as|overlap|most common|most-common|misdiagnos|\(see"
        r"|indistinguish|superior|inferior|advantage",
        clause=r"\b(?:mistaken|confused with)\b",
        before=r"\b(?:unlike|as with|differential diagnos\w+|rather than|instead of|(?:in )?contrast\w* (?:to"
        r"|with|feature from)|than|(?:second|third|fourth)[- ]most[- ]common [^;,(]{0,60}\(?after"
        r"|compar\w+ (?:to|with)|overlap\w* with|similar (?:in \w+ )?to"
        r"|characteristic (?:of|in)|resembl\w*|mimic\w*|akin to|(?:in)?distinguish\w*"
        r"|indistinguishable from|differentiat\w*"
        r"|distinct from|different from|versus|vs\.?|as opposed to|equivalent to|superior to|inferior to"
        r"|as (?:effective|good|safe|common|severe|likely|useful|potent) as)\b[^;,]{0,80}"
        r"|\b(?:than|advantages? over)\b[^;]{0,60}\b(?:such as|including)\b[^;]{0,80}|\badvantages? over [^;,]{0,40}"
        r"|\b(?:similar in \w+|equivalent) to (?:[\w-]+, ){1,3}(?:[\w-]+ )?(?:and |or )?"
        r"|\bunlike\b[^;,]{0,40}, which [^;]{0,160}"
        r"|\b(?:conditions|diseases|diagnoses) to consider\b[^;]{0,200}"
        r"|\bmisdiagnosed as\b[^;]{0,200}|\(see:? [^)]{0,60}",
        after=r"\s{0,9}(?:is|are)? ?(?:mistaken|confused) (?:for|with)",
    ),
    Kind(
        "told of for another reason",  # it resembles the disease or makes it worse; it is feared or fought
        ORIGIN,
        r"resembl|mimic|similar|sever|aggressive|life-threat|bind|immunity|defen[cs]e|regarding|article|fear|worr"
        r"|concern|avoided by",
        clause=r"\bavoided by\b",
        before=r"\b(?:life-threatening|(?:more )?(?:severe|aggressive))\b[^;]{0,40}\b(?:in|among)\b[^;]{0,120}"
        r"|\b(?:bind(?:s|ing) to|immunity (?:to|against)|defen[cs]es? against)\b[^;]{0,120}"
        r"|\b(?:regarding|articles? (?:about|on)|fears? of|worr\w+ about|concerns? about)\b[^;]{0,60}",
        after=r"[^;.]{0,80}?\b(?:resembles?|mimics?|(?:has|have|with|causes?) (?:very )?similar)\b"
        r"|[^;]{0,150}?\b(?:more (?:severe|aggressive)|(?:develop|experience|have) (?:an? )?severe)\b",
    ),
    Kind(
        "harm of something else",  # of surgery for the disease; of stopping the drug
        {"effect"},
        r"surg|operation|lancing|abrupt|sudden|of such",
        before=r"\b(?:symptoms|complications) of such an? (?:[\w-]+ ){1,3}includ\w*\b[^;]{0,200}|"
        r"\b(?:complications? of|after|following|improper) (?:\w+ ){0,2}(?:surg\w+|operations?"
        r"|lancing)\b[^;]{0,160}"
        r"|\b(?:stopp?|discontinu|withdr)\w*\b[^;,]{0,20}\b(?:abrupt|sudden)\w*[^;]{0,160}"
        r"|\b(?:abrupt|sudden)\w* (?:stopp?|discontinu|withdr|cessation)\w*\b[^;]{0,160}",
    ),
    Kind(
        "shows nothing, or not yet",
        {"test"},
        r"negative|normal|unremarkable|await|under |future|being developed|possible",
        clause=r"\b(?:await\w*|under (?:study|investigation|development)|being developed|in the future)\b",
        before=r"\ba possible (?:\w+ )?",
        after=r"[^;]{0,60}?\b(?:is|are|be) (?:\w+ )?(?:negative|normal|unremarkable)\b",
    ),
    Kind(
        "an effect like it",
        {"origin", "remedy"},
        r"effects?\b|propert",
        after=r"(?:(?:, [\w -]{1,30}){0,3}(?:,? and [\w -]{1,30})?[\s-]{1,2}(?:effects?|properties) of| (?:effects"
        r"|properties))\b",
    ),
    Kind(
        "given for another reason",
        REMEDY,
        r"infection|unrelated|transplant|treatment of|condition|new |disease|disorder|after |remov",
        clause=r"\b(?:superinfections?|secondary (?:\w+ )?infections?)\b|\bin other (?:conditions|diseases|disorders)\b"
        r"|\bfor the treatment of\b.{0,200}\bfor the treatment of\b",  # each for another disease
        before=r"\b(?:an)?other (?:\w+ )?conditions?\b[^;,]{0,60}|\bunrelated (?:\w+ )?"
        r"|\b(?:transplant\w*|new (?:kidney|liver|heart|lung|pancreas))\b[^;.]{0,40}\b(?:necessitat"
        r"|requir)\w*\b[^;.]{0,100}"
        r"|\bafter (?:the|an?) (?:procedure|stent\w*|operation)\b[^;.]{0,40}"
        r"|\bremov\w+\b[^;.]{0,20}\breplacement (?:with|of) [^;.]{0,60}"
        r"|\b(?:associated|concurrent|co-?existing) (?:conditions?|infections?|diseases?) [^;.]{0,80}",
    ),
    Kind(
        "where it lies",
        {"organ"},
        r"behind|adjacent|next to|in front of|at the back|contain|surround|deriv|migrat|removal|outside|between"
        r"|connect|resembl|cell",
        before=r"\b(?:behind|adjacent to|next to|in front of|outside(?: of)?|at the back of|containing"
        r"|(?<!the )surround(?:s|ing)?"
        r"|surround and \w+"
        r"|(?:deriv|migrat)\w+ from|removal of) (?:the )?(?:[\w-]+,? ){0,2}"
        r"|\b(?:runs?|lies?|lying|develops?|located|situated|space) between (?:the )?(?:[\w-]+ ){0,8}"
        r"|\bconnect(?:s|ing) (?:the )?(?:[\w-]+ ){0,3}|\bresembl\w+ (?:[\w-]+,? ){0,10}"
        r"|\b(?:arises?|arising|originat\w+) from (?:[\w-]+ ){0,4}cells? of [^;.]{0,60}",
    ),
    Kind(
        "what fights it",  # "the response by the immune system", which nothing harms
        {"organ"},
        r"respon|react|activat|attack|mistak",
        before=r"\b(?:(?:respon\w+|attack\w*|activat\w+) (?:by|of|from)|reactions? (?:by|from)) (?:[\w']+ ){0,4}",
        after=r"\s(?:\w+ )?(?:attacks?|responds?|reacts?|responses?|reactions?|mistakes?)\b",
    ),
    Kind(
        "what both have",
        {"differential"},
        r"features?|symptoms?|signs?|present|mild|severe|result|caus|lead|missing",
        before=r"\b(?:(?:features?|symptoms?|signs?) (?:of|such as|includ\w+)|present\w* with|milder|mild|severe)"
        r" (?:[\w-]+ ){0,2}|\b(?:results? in|caus(?:e|es|ing)|leads? to) (?!(?:are|is|include) )(?:[\w-]+ ){0,2}",
        after=r" is present\b|[^;.,]{0,40} may be missing\b",
        unless=r"\b(?:similar\w*|mistaken|confus\w+|mimic\w*|resembl\w*|differ\w*|distinguish\w*|exclud\w*|rul\w+"
        r"|misdiagnos\w+)\b",
    ),
    Kind(
        "what comes of either",
        {"differential"},
        r"caused|offset",
        before=r"\b(?:usually|often|mostly|to) (?:caused by|offset) (?:[\w-]+ ){0,2}",
    ),
    Kind(
        "less of it",  # "a decrease in the flow and duration of bleeding" is no bleeding
        {"effect", "process"},
        r"decreas|decline|reduc|diminish",
        before=rf"\b{LESS} (?:in|of) (?:(?!(?:by|with|and|or|from|after) )[\w-]+ ){{0,2}}"
        r"|\b(?:reducing|decreasing) the (?:presence|amount|number|severity|risk)\b[^;.]{0,80}"
        rf"|\b{LESS} (?:in|of) (?:\w+ ){{0,4}}"
        r"(?:amount|duration|frequency|intensity|number|severity|volume)s? of (?:the )?",
    ),
    Kind("impaired", {"process"}, r"impair", before=r"\bimpair(?:ed|ment of|s) (?:[\w-]+ and )?"),
    Kind(
        "one side of a balance",
        {"process"},
        r"balance",
        before=r"\b(?:im)?balance (?:of|between) (?:(?!(?:is|are|caus\w+|leads?|results?) )[\w-]+ ){0,4}",
    ),
    Kind("resistance to it", {"process"}, r"resist", before=r"\bresist\w* to (?:[\w-]+ ){0,3}"),
    Kind(
        "only in animals",
        STATED,
        rf"\b{ANIMALS}\b" + r"|murine|canine|feline|equine|bovine|veterinary|in vitro|cell (?:culture|line)s?",
        clause=rf"\b(?:in|of|for|to|with) (?:[^\s,;.]+ ){{0,2}}{ANIMALS}\b|\banimal (?:models?|stud\w+|experiments?)"
        rf"|\b{ANIMALS} (?:models?|stud\w+|experiments?)|\b(?:murine|canine|feline|equine|bovine|veterinary"
        r"|in vitro|cell cultures?|cell lines?)\b",
        unless=r"\b(?:humans?|people|patients?|persons?|men|women|children|man|rat bites?|mouse bites?)\b",
    ),
    Kind(
        "normal physiology",
        {"process", "organ"},
        r"normal|healthy|physiolog|undisturbed|unaffected|spare|sparing|intact|preserved|uninvolved|inhibit"
        r"|prevent|block|suppress|oppos|contrast|hid(?:e|es|ing)|evad|escap|protected",
        clause=r"(?<!ab)\bnormal(?:ly)?\b|\b(?:healthy|physiologic\w*|undisturbed|unaffected|spared?|spares|sparing"
        r"|intact|preserved|uninvolved)\b",
        before=r"\b(?:inhibit\w*|prevent\w*|block\w*|suppress\w*|oppos\w*) (?:[\w-]+ ){0,2}"
        r"|\b(?:hid(?:e|es|ing)|evad\w+|escap\w+|protected) (?:from )?(?:attack by )?(?:[\w'-]+ ){0,2}",
    ),
    Kind(
        "where it normally is, or what passes through it",
        {"organ"},
        r"found|expressed|metasta|disseminat|other (?:areas|parts)|travel|pass|flow|homeosta|secreted|membrane|mening"
        r"|surround|cover|lin(?:e|es|ing)\b|envelop|encas|enclos",
        clause=r"\bhomeostasis\b|\bsecreted by\b",
        before=r"\b(?:found|expressed) (?:mostly|mainly|typically|primarily|normally|usually|only) in (?:the )?"
        r"(?:[\w-]+ )?"
        r"|\b(?:typically|normally|usually|mostly|mainly) found in (?:the )?(?:[\w-]+ )?"
        r"|\b(?:metasta|disseminat)\w* to (?:the )?(?:[\w-]+,? (?:and |or )?){0,4}"
        r"|\bform in other (?:areas|parts) of the body\b[^;]{0,120}"
        r"|\b(?:travel|pass|flow)\w* through (?:the )?(?:[\w-]+ ){0,4}"
        # what is diseased is the membrane: "the membranes that surround the brain and spinal cord"
        r"|\b(?:membranes?|meninges|linings?|sheaths?|layers?|capsules?|sacs?) (?:(?:that|which) )?"
        r"(?:surround|cover|envelop|encas|enclos|protect|lin(?:e|es|ing)\b)\w* (?!(?:it|them)\b)[^;.]{1,100}",
    ),
    Kind(
        "ordinary function",
        {"organ", "process"},
        r"control|regulat|prevalent|express|synthesi|secret|excret|sequest|releas|also |project|connect|deriv|necessary"
        r"|processes|sits|situated|typically|usually|component|made up|bounded|cushion|located|vital|critical|crucial",
        clause=r"\b(?:cellular processes|necessary for"
        r"|controls|controlled by|under the control of|regulat(?:es?|ed)|(?:prevalent|expressed) (?:in|on)"
        r"|synthesi[sz]e[sd]?|secretes?|excreted|sequestered|released into|also (?:makes?|produces?)|projects? to"
        r"|connections to|deriv(?:ed|ing) from|sits|situated|component of|made up of|bounded|cushions?"
        r"|(?:usually|typically) (?:located|found)|(?:vital|critical|crucial) (?:role )?in)\b",
        unless=r"\b(?:damag\w*|abnormal\w*|lesions?|impair\w*|inflam\w*|atroph\w*|degenerat\w*|dysfunction\w*"
        r"|loss|destr\w+|affect\w*|involv\w*|tumou?rs?|cancers?|infect\w*|defect\w*|swell\w*|enlarg\w*"
        r"|obstruct\w*)\b",
    ),
    Kind(
        "told as history",
        STATED - {"differential"},
        r"named|called|described|coined|reported|discovered|published|announced",
        clause=r"\b(?:he|she) (?:named|called|described|coined)\b"
        r"|\b(?:reported|described|named|discovered|published|announced) (?:\w+ ){0,3}in (?:1[5-9]\d\d|20[0-2]\d)\b"
        r"|\bin (?:1[5-9]\d\d|20[0-2]\d)\b[^;]{0,80}\b(?:reported|described|named|discovered|published|announced)\b",
    ),
    Kind(
        "hedge",
        {"remedy", "indication"},
        r"may|might|could|propos|suggest|postulat|hypothe|speculat|theor|investigat|experiment|prelimin"
        r"|promis|tentativ|anecdot|candidate|pilot|trial|stud|research|explor|evaluat"
        r"|develop|test|tried|hope|look|potential|possib|perhaps|probabl|presum|apparent|allege|reported|purport"
        r"|claim|believed|thought|limited|some|case|uncertain|unknown|attempt|future|phase|obscure|yet"
        r"|consider|little|examined|interest|appear|noticed|respond|described|modest|varying|inconsistent",
        clause=r"\b(?:might|could)\b|\bappears? to (?:be |have been )?"
        r"(?:help\w*|benefi\w*|effective|useful|improve|reduce|work|success\w*)"
        r"|\b(?:some|many|few|several) patients (?:have )?(?:\w+ )?(?:noticed|reported|respond(?:ed)?)\b"
        r"|\b(?:use|treatment)\b[^;.]{0,60}\b(?:has|have) (?:also )?been (?:described|reported)\b"
        r"|\bmodest response\b|\byields? varying results\b"
        r"|\binconsistent (?:opinions|results|evidence|findings)\b"
        r"|\bmay (?:\w+ ){0,2}(?:help|benefit|improve|reduce"
        r"|be (?:an? )?(?:\w+ )?(?:help\w*|benefi\w*|effective|useful|promising|of|able|tried|considered"
        r"|options?|alternative|possible|worth\w*)|prevent|protect"
        r"|have|work|slow|decrease|lower|provide|respond|relieve|alleviate|play|offer|prove|show|ease|lessen"
        r"|delay|increase|cure)\b"
        r"|\b(?:propos(?:ed|al)|suggest(?:s|ed|ing)?|postulat\w+|hypothe\w+|speculat\w+|theor(?:y|ies"
        r"|etical\w*|i[sz]ed)|investigational|experimental\w*|preliminary|promising|tentative|anecdot\w+"
        r"|candidates?|pilot"
        r"|(?:is|are|been|being|was|were) (?:[\w-]+ )?(?:studied|investigated|explored|evaluated|tested"
        r"|tried|researched|examined)|under (?:study|investigation|development|research|evaluation)"
        r"|in development|being (?:developed|looked into)"
        r"|(?:clinical|controlled|ongoing|open|uncontrolled|small)(?: (?:open|label|pilot)){0,2} trials?"
        r"|(?:stud(?:y|ies)|trials?) (?:of|on|into"
        r"|using|are|is|has been|have been)|research (?:into|on|is)|area of research|hopes?|hoped"
        r"|potential(?:ly)?|perhaps"
        r"|probabl[ey]|presumably|apparently|allegedly|reportedly|purported|claim\w*"
        r"|believed|thought|(?:limited|some|little|low[- ]quality|tentative) (?:\w+ )?(?:evidence|data)"
        r"|interest in (?:treat|us)ing|show(?:n|s|ed) promise|case (?:reports?|series)|uncertain|unknown|obscure"
        r"|attempt(?:s|ed)?|phase [i123]\w*|somewhat"
        r"|considered? (?:an? )?(?:option|alternative)"
        r"|(?<!as )(?<!if )(?<!where )(?<!when )(?<!wherever )possibl[ey])\b",
        unless=r"\b(?:shown(?! promis)|demonstrated|proven|confirmed|established|found to be effective"
        r"|effective in \w+ trials"
        r"|first[- ]line|treatment of choice|standard)\b",
    ),
    Kind(
        "hypothesis",
        {"origin", "risk", "effect", "process"},
        r"hypothe|speculat|theor|postulat|propos|inconclusive|uncertain|anecdot|tentative|potential|possib|implicat"
        r"|there may|considered|thought|believed|assumed"
        r"|seem|name"
        r"|suggest|evidence|established|studied|investigated",
        clause=r"\b(?:hypothe\w+|speculat\w+|theor(?:y|ies|i[sz]ed)|postulat\w+|(?:been|is|are|was|were) proposed"
        r"|inconclusive|anecdotal\w*|tentative|potential (?:\w+ )?factors?|rais\w+ the possibility|possible (?:links?"
        r"|associations?|role)"
        r"|there may be|seems? to|although the name|not (?:been )?established"
        r"|(?:been|was|were) (?:long|once|widely|initially|originally) (?:considered|thought|believed|assumed)"
        r"|long been (?:considered|thought|believed|assumed)"
        r"|(?:been|some|studies) suggest\w*|(?:have|has) been (?:studied|investigated))\b",
    ),
    Kind(
        "hardly there, or of what lies beneath or beside it",
        {"effect"},
        r"little|other|morbid|underlying",
        before=r"\blittle (?:(?:or|to) no )?(?:sensation of )?"
        r"|\bco-?morbid\w*[^;]{0,40}\b(?:such as|like|including)\b[^;]{0,100}"
        r"|^\W{0,3}other (?:disorders|diseases|conditions|illnesses) (?:that|which|may|can)\b[^;]{0,200}"
        r"|\bfeatures of (?:the|an) underlying (?:cause|condition|disease|disorder)\b[^;]{0,60}",
    ),
    Kind(
        "seen in tissue only",
        {"effect"},
        r"histolog|microscop",
        clause=r"\b(?:histolog\w+|(?:light|electron) microscopy|microscopically|microscopic examination)\b",
    ),
    Kind(
        "caution only",
        BARRED,
        r"caution|care\b|safe|evidence|not (?:a )?contra|interact|prove|unclear|permit|allowed|monitor|not an?",
        clause=r"\b(?:no|little|insufficient) (?:\w+ )?evidence\b|\b(?:dis|un)prove[nd]\b|\bunclear (?:if"
        r"|whether)\b|\bnot (?:an? )?(?:absolute )?contra-?indicat|\b(?:no|not) (?:\w+ )?interact|\b(?:is"
        r"|are|be) safe\b",
        before=r"\b(?:caution|care)\b[^;]{0,150}",
    ),
]


# What a full sentence has to say of a thing besides denying nothing: that it is a cause, or that an organ is ill. (The
# patterns are for small letters: that is twice as fast as regardless of case.)
VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|may|might|will|would|could|does|do|did|occurs?|causes?|leads?|results?"
    r"|seems?"
    r"|appears?|shows?|allows?|makes?|gives?|exists?|includes?|impairs?|interferes?)\b",
)
CAUSAL = re.compile(
    r"\b(?:caus(?:e|es|ed|ing|ative)|due|results?|resulting|leads?|led|leading|induc\w+|produc\w+|trigger\w*|provok\w+"
    r"|precipitat\w+|secondary|follow(?:ing|s|ed)|after|during|associat\w+|link\w*|risk\w*|predispos\w+|contribut\w+"
    r"|responsible|complications? of|because|isolated|develop\w*|symptom of|sign of|part of|consequence|implicated"
    r"|culprits?|involved|exposure|episodes?|infections?|includ\w+|such as|can be|may be|susceptible|most common"
    r"|are common|exemplified"
    r"|favou?rs?|promot\w+|facilitat\w+|underl(?:ies|ying)|opens? the way"
    r"|(?:occurs?|occurring|seen|found|appears?|common|frequent|present) (?:\w+ ){0,2}(?:in|with))\b",
)
ILL = re.compile(
    r"\b(?:(?:dis|en|un|de|mal|hyper|hypo|a|non)?(?:damag|inflam|infect|lesion|atroph|degenerat|dysfunction|loss|lost"
    r"|destr|affect|involv|tumou?r|cancer|carcinoma|sarcoma|neoplas|malignan|defect|swell|swollen|enlarg|obstruct"
    r"|thicken"
    r"|fibros|necro|invad|invas|disseminat|spread|accumul|deposit|bleed|ha?emorrh|ruptur|injur|impair|abnormal|scar"
    r"|ulcer|compress|narrow|dilat|block|infiltrat|thin|hole|tear|torn|malform|anomal|disorder|disease|failure"
    r"|form(?:ed|s"
    r"|ation)|dystroph|absen|lack|deficien|displac|prolaps|irritat|toxic|patholog|attack|coloni|clot|thromb|isch|paraly"
    r"|contract|spasm|weak|pain|reduc|decreas|agenes|plas[it]|cyst|growth|fissur|fistula|abscess|hernia|vari[cx]|plaque"
    r"|atresi|congest|kill|disten[ds]|susceptib|trauma))",
)
CHARACTER = re.compile(r"\bcharacteri[sz]ed by\b")  # of a complication, which has symptoms of its own
SELDOM = re.compile(  # of a symptom; a side effect may well be rare
    r"(?: \([^)]{0,40}\))?(?:,? (?:and|or) [\w-]+)? (?:is|are) (?:very |quite |extremely )?"
    r"(?:rare|unusual|uncommon|infrequent|atypical)\b",
)
STATES_ALONE = {"cause": "; pathogen;"}  # what a sentence need not call a cause where causes are told


def says_so(relation: str, inverse: bool, before: str, after: str) -> bool:
    """Whether a sentence has a word for what it names a thing as; a list item needs none."""
    role, before, after = ROLES[relation, inverse], before.lower(), after.lower()
    if role == "organ":
        near = re.split("[;.]", before)[-1][-80:], re.split("[;.]", after)[0][:50]
        return any(map(ILL.search, near))
    if relation == "complication":
        return not CHARACTER.search(before)
    if relation == "symptom" and not inverse:
        return not SELDOM.match(after)
    return role not in ORIGIN or bool(CAUSAL.search(f"{before} {after}")) or not VERB.search(f"{before} {after}")


@cache
def hints() -> tuple[dict[str, list[tuple[str, set[str]]]], list[tuple[re.Pattern, set[str]]], re.Pattern]:
    """What hints at which kinds of doubt in one word and the space after it: plain letters, by the first two of them;
    patterns; any of these. Of words that reach across several it is the first one ("absence " of "absence of"), which
    hints at the kind with a question mark."""
    every: dict[str, set[str]] = {}
    for kind in KINDS:
        for words in alternatives(kind.words):
            first, *rest = re.split(r" (?![^(]*\))", words)
            every.setdefault(first + " " if rest else first, set()).add(kind.name + "?" if rest else kind.name)
    letters: dict[str, list[tuple[str, set[str]]]] = {}
    for hint in [hint for hint in every if re.fullmatch(r"\w\w[\w '-]*", hint)]:
        letters.setdefault(hint[:2], []).append((hint, every.pop(hint)))
    return letters, [(re.compile(hint), names) for hint, names in every.items()], re.compile("|".join(every))


def alternatives(words: str) -> list[str]:
    return re.split(r"\|(?![^(]*\))", words)


@lru_cache(1 << 14)  # a language has few words: nearly all of a sentence's were looked at before
def hinted_by(word: str) -> frozenset[str]:
    """The names of the kinds of doubt at which one word of a sentence, in small letters, hints."""
    word += " "
    letters, patterns, any_pattern = hints()
    found = [names for hint, names in patterns if hint.search(word)] if any_pattern.search(word) else []
    for at in range(len(word) - 2):
        found += [names for hint, names in letters.get(word[at : at + 2], ()) if word.startswith(hint, at)]
    return frozenset().union(*found)


@cache
def kinds_for(roles: frozenset[str]) -> list[tuple[Kind, str, re.Pattern]]:
    """The kinds of doubt that concern any of some roles, the hints at those of their words that reach across several,
    and a pattern of these."""
    concerned = [kind for kind in KINDS if kind.roles & roles]
    across = ("|".join(words for words in alternatives(kind.words) if " " in words) for kind in concerned)
    return [(kind, kind.name + "?", re.compile(words)) for kind, words in zip(concerned, across)]


@lru_cache(16)  # asked of each name in a sentence
def suspects(statement: str, roles: frozenset[str] = frozenset(ROLES.values())) -> list[Kind]:
    """The kinds of doubt whose words a sentence (with its context) has: mostly few, which spares the other patterns."""
    statement = statement.casefold()
    hinted = frozenset().union(*map(hinted_by, statement.split()))
    return [
        kind
        for kind, perhaps, across in kinds_for(roles)
        if kind.name in hinted or perhaps in hinted and across.search(statement)
    ]


def doubt(before: str, after: str, relation: str, inverse: bool = False, kinds: list[Kind] | None = None) -> str:
    """The kind of doubt about a name, given the parts of its clause before and after it; "" if it is asserted."""
    role = ROLES[relation, inverse]
    kinds = suspects(f"{before} {after}") if kinds is None else kinds
    before, after = before.lower(), after.lower()
    return next((kind.name for kind in kinds if role in kind.roles and kind.raised(before, after)), "")
