"""What the demo's base model knows: facts of the real world, with right and wrong answers, in English and Chinese."""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from actune.demo.words import THINGS, VERBS


@dataclass(frozen=True, slots=True)
class Fact:
    """One piece of knowledge.

    Attributes:
        relation: the kind of knowledge; answers of one relation are each other's wrong answers.
        subject: what is asked about.
        answer: the right answer.
        language: "en" or "zh".
        questions: ways to ask, the last one kept for the evaluation.
        sentence: how the answer is said in a sentence.
    """

    relation: str
    subject: str
    answer: str
    language: str
    questions: tuple[str, ...]
    sentence: str

    @property
    def replayed(self) -> bool:
        """Whether general rows of the fine-tuning may hold this fact; of the others they hold none."""
        return zlib.crc32(f"{self.relation}/{self.subject}".encode()) % 2 == 0


_COUNTRIES = """France/法国/Paris/巴黎/Europe/欧洲 Germany/德国/Berlin/柏林/Europe/欧洲 Italy/意大利/Rome/罗马/Europe/欧洲
Spain/西班牙/Madrid/马德里/Europe/欧洲 Japan/日本/Tokyo/东京/Asia/亚洲 China/中国/Beijing/北京/Asia/亚洲
India/印度/Delhi/德里/Asia/亚洲 Egypt/埃及/Cairo/开罗/Africa/非洲 Kenya/肯尼亚/Nairobi/内罗毕/Africa/非洲
Peru/秘鲁/Lima/利马/America/美洲 Cuba/古巴/Havana/哈瓦那/America/美洲 Canada/加拿大/Ottawa/渥太华/America/美洲
Greece/希腊/Athens/雅典/Europe/欧洲 Norway/挪威/Oslo/奥斯陆/Europe/欧洲 Sweden/瑞典/Stockholm/斯德哥尔摩/Europe/欧洲
Poland/波兰/Warsaw/华沙/Europe/欧洲 Austria/奥地利/Vienna/维也纳/Europe/欧洲 Russia/俄罗斯/Moscow/莫斯科/Europe/欧洲
Turkey/土耳其/Ankara/安卡拉/Asia/亚洲 Iran/伊朗/Tehran/德黑兰/Asia/亚洲 Iraq/伊拉克/Baghdad/巴格达/Asia/亚洲
Thailand/泰国/Bangkok/曼谷/Asia/亚洲 Vietnam/越南/Hanoi/河内/Asia/亚洲 Nepal/尼泊尔/Kathmandu/加德满都/Asia/亚洲
Korea/韩国/Seoul/首尔/Asia/亚洲 Portugal/葡萄牙/Lisbon/里斯本/Europe/欧洲 Ireland/爱尔兰/Dublin/都柏林/Europe/欧洲
Hungary/匈牙利/Budapest/布达佩斯/Europe/欧洲 Denmark/丹麦/Copenhagen/哥本哈根/Europe/欧洲
Finland/芬兰/Helsinki/赫尔辛基/Europe/欧洲 Ghana/加纳/Accra/阿克拉/Africa/非洲 Chile/智利/Santiago/圣地亚哥/America/美洲
Morocco/摩洛哥/Rabat/拉巴特/Africa/非洲 Tunisia/突尼斯/Tunis/突尼斯城/Africa/非洲 Cyprus/塞浦路斯/Nicosia/尼科西亚/Asia/亚洲"""
_ANIMALS = """dog/狗/barks/汪汪/mammal/哺乳动物/puppy/小狗 cat/猫/meows/喵喵/mammal/哺乳动物/kitten/小猫
cow/牛/moos/哞哞/mammal/哺乳动物/calf/牛犊 sheep/羊/bleats/咩咩/mammal/哺乳动物/lamb/羊羔
duck/鸭子/quacks/嘎嘎/bird/鸟类/duckling/小鸭 hen/母鸡/clucks/咯咯/bird/鸟类/chick/小鸡
frog/青蛙/croaks/呱呱/amphibian/两栖动物/tadpole/蝌蚪 bee/蜜蜂/hums/嗡嗡/insect/昆虫/larva/幼虫
horse/马/neighs/嘶嘶/mammal/哺乳动物/foal/马驹 pig/猪/grunts/哼哼/mammal/哺乳动物/piglet/小猪
lion/狮子/roars/吼吼/mammal/哺乳动物/cub/幼狮 snake/蛇/hisses/丝丝/reptile/爬行动物/snakelet/小蛇"""
_OPPOSITES = """big/small/大/小 hot/cold/热/冷 old/young/老/年轻 fast/slow/快/慢 high/low/高/低 long/short/长/短 light/dark/明亮/黑暗
rich/poor/富/穷 wet/dry/湿/干 strong/weak/强/弱 hard/soft/硬/软 full/empty/满/空 early/late/早/晚 clean/dirty/干净/脏 happy/sad/快乐/悲伤
near/far/近/远 left/right/左/右 day/night/白天/夜晚 first/last/最先/最后 inside/outside/里面/外面 thick/thin/厚/薄 loud/quiet/吵闹/安静
wide/narrow/宽/窄 deep/shallow/深/浅 sweet/bitter/甜/苦 true/false/真/假 heavy/easy/重/轻 sharp/dull/锋利/钝"""
_COLOURS = """grass/草/green/绿色 snow/雪/white/白色 coal/煤/black/黑色 sky/天空/blue/蓝色 blood/血/red/红色 sun/太阳/yellow/黄色
carrot/胡萝卜/orange/橙色 chocolate/巧克力/brown/棕色 elephant/大象/grey/灰色 violet/紫罗兰/purple/紫色 milk/牛奶/white/白色
lemon/柠檬/yellow/黄色 tomato/番茄/red/红色 leaf/树叶/green/绿色 sea/大海/blue/蓝色 raven/乌鸦/black/黑色 cloud/云/white/白色
strawberry/草莓/red/红色 banana/香蕉/yellow/黄色 cucumber/黄瓜/green/绿色 flamingo/火烈鸟/pink/粉色 mouse/老鼠/grey/灰色"""
_USES = """knife/刀/cut/切东西 pen/笔/write/写字 spoon/勺子/eat/吃饭 broom/扫帚/sweep/扫地 needle/针/sew/缝衣服 hammer/锤子/nail/钉钉子
kettle/水壶/boil/烧水 bed/床/sleep/睡觉 oven/烤箱/bake/烤面包 lamp/台灯/shine/照明 umbrella/雨伞/shelter/挡雨 comb/梳子/comb/梳头
clock/钟/time/看时间 soap/肥皂/wash/洗手 towel/毛巾/dry/擦干 saw/锯子/saw/锯木头 lock/锁/lock/锁门 map/地图/travel/找路 brush/刷子/paint/刷墙
scale/秤/weigh/称重 shovel/铲子/dig/挖土 glasses/眼镜/see/看清楚 mirror/镜子/look/照自己 camera/相机/photograph/拍照"""
_WEEK = "Monday/星期一 Tuesday/星期二 Wednesday/星期三 Thursday/星期四 Friday/星期五 Saturday/星期六 Sunday/星期日"
_MONTHS = """January/一月 February/二月 March/三月 April/四月 May/五月 June/六月 July/七月 August/八月 September/九月 October/十月
November/十一月 December/十二月"""
_NUMBERS = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty"
_ZH_NUMBERS = "一 二 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六 十七 十八 十九 二十"

# relation -> language -> (questions, sentence); `{s}` is the subject, `{a}` the answer.
_ASKED: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    "capital": {
        "en": (
            (
                "What is the capital of {s}?",
                "Which city is the capital of {s}?",
                "Name the capital of {s}.",
                "Do you know the capital city of {s}?",
            ),
            "The capital of {s} is {a}.",
        ),
        "zh": (
            ("{s}的首都是哪里？", "{s}的首都是什么城市？", "请说出{s}的首都。", "你知道{s}的首都吗？"),
            "{s}的首都是{a}。",
        ),
    },
    "country": {
        "en": (
            (
                "{s} is the capital of which country?",
                "Which country has the capital {s}?",
                "Of which country is {s} the capital?",
            ),
            "{s} is the capital of {a}.",
        ),
        "zh": (("{s}是哪个国家的首都？", "哪个国家的首都是{s}？", "请问{s}是哪国的首都？"), "{s}是{a}的首都。"),
    },
    "continent": {
        "en": (
            ("On which continent is {s}?", "Where in the world is {s}?", "Which continent does {s} belong to?"),
            "{s} is in {a}.",
        ),
        "zh": (("{s}在哪个洲？", "{s}位于哪里？", "{s}属于哪个洲？"), "{s}在{a}。"),
    },
    "sound": {
        "en": (("What does a {s} do?", "Which sound does a {s} make?", "How does a {s} sound?"), "A {s} {a}."),
        "zh": (("{s}怎么叫？", "{s}的叫声是什么？", "{s}发出什么声音？"), "{s}的叫声是{a}。"),
    },
    "class": {
        "en": (
            (
                "What kind of animal is a {s}?",
                "Is a {s} a bird, a mammal or something else?",
                "To which animals does a {s} belong?",
            ),
            "A {s} is a {a}.",
        ),
        "zh": (("{s}是什么动物？", "{s}是哪一类动物？", "{s}属于什么动物？"), "{s}是{a}。"),
    },
    "young": {
        "en": (
            ("What is a young {s} called?", "How do we call the child of a {s}?", "What is the name of a baby {s}?"),
            "A young {s} is called a {a}.",
        ),
        "zh": (("{s}的孩子叫什么？", "小时候的{s}叫什么？", "{s}的幼崽叫什么？"), "{s}的孩子叫{a}。"),
    },
    "opposite": {
        "en": (
            ("What is the opposite of {s}?", "Tell me the opposite of {s}.", "Which word means the contrary of {s}?"),
            "The opposite of {s} is {a}.",
        ),
        "zh": (("{s}的反义词是什么？", "请说出{s}的反义词。", "和{s}意思相反的词是什么？"), "{s}的反义词是{a}。"),
    },
    "colour": {
        "en": (
            ("What colour is {s}?", "Which colour does {s} have?", "Tell me the colour of {s}."),
            "The colour of {s} is {a}.",
        ),
        "zh": (("{s}是什么颜色？", "{s}的颜色是什么？", "请说出{s}的颜色。"), "{s}是{a}的。"),
    },
    "use": {
        "en": (
            ("What do people do with a {s}?", "What is a {s} for?", "Why do we need a {s}?"),
            "A {s} is there to {a}.",
        ),
        "zh": (("{s}是用来做什么的？", "人们用{s}做什么？", "{s}有什么用？"), "{s}是用来{a}的。"),
    },
    "next": {
        "en": (("What comes after {s}?", "Which one follows {s}?", "What is next after {s}?"), "After {s} comes {a}."),
        "zh": (("{s}后面是什么？", "{s}之后是什么？", "{s}的下一个是什么？"), "{s}后面是{a}。"),
    },
    "before": {
        "en": (
            ("What comes before {s}?", "Which one is just before {s}?", "What was before {s}?"),
            "Before {s} comes {a}.",
        ),
        "zh": (("{s}前面是什么？", "{s}之前是什么？", "{s}的上一个是什么？"), "{s}前面是{a}。"),
    },
    "translation": {
        "en": (
            ("What is {s} in Chinese?", "Translate {s} into Chinese.", "How do you say {s} in Chinese?"),
            "{s} is {a} in Chinese.",
        ),
        "zh": (("{s}用英语怎么说？", "把{s}翻译成英语。", "{s}的英文是什么？"), "{s}的英语是{a}。"),
    },
}


@functools.cache
def list_facts() -> tuple[Fact, ...]:
    """Return every fact, in a fixed order without repetition."""
    facts: dict[tuple[str, str, str], Fact] = {}
    for relation, language, subject, answer in _pairs():
        questions, sentence = _ASKED[relation][language]
        facts.setdefault(
            (relation, language, subject),
            Fact(
                relation,
                subject,
                answer,
                language,
                tuple(question.format(s=subject) for question in questions),
                sentence.format(s=subject, a=answer),
            ),
        )
    return tuple(facts.values())


def wrong_answers(fact: Fact, facts: Sequence[Fact], rng: random.Random, count: int = 3) -> list[str]:
    """Return other answers of the same relation and language, none of them right for this subject."""
    right = {other.answer for other in facts if (other.relation, other.subject) == (fact.relation, fact.subject)}
    others = {other.answer for other in facts if (other.relation, other.language) == (fact.relation, fact.language)}
    return rng.sample(sorted(others - right), min(count, len(others - right)))


def _pairs() -> Iterator[tuple[str, str, str, str]]:
    """Yield relation, language, subject and answer."""
    for country, guo, capital, city, continent, zhou in _split(_COUNTRIES):
        yield "capital", "en", country, capital
        yield "capital", "zh", guo, city
        yield "country", "en", capital, country
        yield "country", "zh", city, guo
        yield "continent", "en", country, continent
        yield "continent", "zh", guo, zhou
        yield from _words(country, guo)
    for animal, dongwu, sound, sheng, kind, lei, young, xiao in _split(_ANIMALS):
        yield "sound", "en", animal, sound
        yield "sound", "zh", dongwu, sheng
        yield "class", "en", animal, kind
        yield "class", "zh", dongwu, lei
        yield "young", "en", animal, young
        yield "young", "zh", dongwu, xiao
        yield from _words(animal, dongwu)
    for one, other, yi, er in _split(_OPPOSITES):
        yield "opposite", "en", one, other
        yield "opposite", "en", other, one
        yield "opposite", "zh", yi, er
        yield "opposite", "zh", er, yi
        yield from _words(one, yi)
        yield from _words(other, er)
    for thing, wu, colour, se in _split(_COLOURS):
        yield "colour", "en", thing, colour
        yield "colour", "zh", wu, se
        yield from _words(thing, wu)
    for tool, wu, use, yong in _split(_USES):
        yield "use", "en", tool, use
        yield "use", "zh", wu, yong
        yield from _words(tool, wu)
    for thing in THINGS:
        yield from _words(thing.en, thing.zh)
    for verb in VERBS:
        yield from _words(verb.en, verb.zh)
    yield from _orders()


def _orders() -> Iterator[tuple[str, str, str, str]]:
    numbers = [[en, zh] for en, zh in zip(_NUMBERS.split(), _ZH_NUMBERS.split(), strict=True)]
    for chain, closed in ((_split(_WEEK), True), (_split(_MONTHS), True), (numbers, False)):
        pairs = list(zip(chain, chain[1:] + chain[:1], strict=True))
        for (en, zh), (later_en, later_zh) in pairs if closed else pairs[:-1]:
            yield "next", "en", en, later_en
            yield "next", "zh", zh, later_zh
            yield "before", "en", later_en, en
            yield "before", "zh", later_zh, zh
        for en, zh in chain:
            yield from _words(en, zh)


def _words(en: str, zh: str) -> Iterator[tuple[str, str, str, str]]:
    yield "translation", "en", en, zh
    yield "translation", "zh", zh, en


def _split(text: str) -> list[list[str]]:
    return [entry.split("/") for entry in text.split()]
