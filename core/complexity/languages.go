package complexity

import (
	"strings"
	"unicode/utf8"
)

// foreign are the words of cues in German, French, Spanish, Italian, Portuguese and Russian. Words that are common in
// another sense, there or in English, are left out.
var foreign = [CueCount]string{
	Classify: "klassifiziere klassifizieren kategorie stimmung positiv negativ bewertung classe classifie classez classifier catégorie " +
		"sentimiento clasifica clasificar categoría positivo negativo classifica classificare classifique sentimento étiquette " +
		"классифицируй тональность категория",
	Extract: "extrahiere extrahieren liste auszug kontext abschnitt extrais extraire extrayez relève contexte extrae extraer " +
		"contexto estrai estrarre elenca extraia извлеки контекст",
	Translate: "übersetze übersetzen übersetzung traduis traduire traduisez traduction traduce traducir traducción traduzca " +
		"traduci tradurre traduzione traduza traduzir tradução переведи перевод переведите",
	Summarize: "fasse zusammenfassung zusammenfassen kurzfassung résume résumer résumez résumé resumen resumir " +
		"resumo riassumi riassunto sintesi кратко резюме суммируй",
	Rewrite: "umformulieren formuliere korrigiere korrigieren rechtschreibung grammatik höflicher reformule reformuler reformulez corrige " +
		"corriger orthographe reformula reescribe ortografía correggi riscrivi reescreva corrija исправь перепиши",
	Explain: "erkläre erklären erklär beschreibe explique expliquer expliquez décris explica explicar spiega spiegare descrivi " +
		"expliquer explicação объясни опиши",
	Write: "schreibe schreib verfasse entwirf gedicht écris écrire rédige rédiger poème escribe escribir redacta redactar poema " +
		"carta scrivi scrivere lettera escreva redija напиши сочини письмо",
	Compute: "berechne berechnen löse lösen ausrechnen wieviel calcule calculer résous combien calcula calcular resuelve cuánto " +
		"cuántos cuántas calcola risolvi quanto quanti resolva quantos вычисли реши сколько ",
	Implement: "programmiere funktion skript quelltext implementiere implémente fonction código función programa implementa " +
		"funzione codice função функция функцию программу код",
	Debug: "fehlermeldung fehlersuche behebe débogue bogue corrigez depura excepción errore исправь ошибка ошибку",
	Design: "entwerfe architektur konzept strategie conçois concevoir stratégie diseña arquitectura estrategia progetta " +
		"architettura strategia projete arquitetura estratégia спроектируй архитектура",
	Prove: "beweise beweisen beweis démontre démontrer démontrez preuve prouver demuestra demostrar demostración dimostra " +
		"dimostrare dimostrazione demonstre докажи докажите доказательство",
	Optimize: "optimiere optimieren maximiere minimiere optimise optimiser maximiser minimiser optimiza maximiza minimiza ottimizza " +
		"massimizza otimize оптимизируй",
	Reason: "warum begründe vergleiche analysiere beurteile abwägen pourquoi analyse justifie évalue porqué compara analiza " +
		"justifica evalúa perché confronta analizza valuta почему сравни проанализируй обоснуй",
	Fact: "quién cuándo dónde ",
	AdvancedMath: "ableitung polynom polynome primzahl primzahlen wahrscheinlichkeit dreieck konvergiert teilbar dérivée " +
		"polynôme probabilité matrice converge polinomio derivada primos probabilidad matriz " +
		"sucesión polinomi derivata probabilità successione многочлен производная вероятность матрица делится",
	ExpertScience: "enzym molekül rezeptor quantenmechanik thermodynamik haftung kläger molécule récepteur quantique " +
		"jurisprudence molécula enzima cuántica jurisprudencia molecola recettore молекула фермент квантовая",
	Tools: "werkzeuge repositorium dépôt outils herramientas repositorio strumenti инструменты репозиторий",
}

// ideographs are the cues of Chinese and Japanese, two signs each.
var ideographs = [CueCount]string{
	Classify:      "分类 分類 情感 正面 负面 类别 標簽 标签",
	Extract:       "提取 抽取 抽出 列出 根据 上下",
	Translate:     "翻译 翻訳 翻譯 译成 訳し",
	Summarize:     "总结 概括 摘要 要約 总括 總結",
	Rewrite:       "改写 润色 修改 校正 書き 语法",
	Explain:       "解释 说明 説明 介绍 什么 解釋",
	Write:         "写一 撰写 作文 邮件 文章",
	Compute:       "计算 計算 多少 几个 求解",
	Implement:     "函数 関数 代码 程序 编写 算法 実装",
	Debug:         "调试 报错 修复",
	Design:        "设计 設計 架构 规划 方案",
	Prove:         "证明 証明 證明 定理 引理",
	Optimize:      "优化 最適",
	Reason:        "为什 为何 比较 分析 推理 推断 なぜ",
	Fact:          "哪年 哪位 是谁 何年",
	AdvancedMath:  "积分 导数 矩阵 概率 质数 素数 数列 多项 三角 整除",
	ExpertScience: "量子 分子 基因 蛋白 受体 诊断 诉讼",
	Tools:         "工具 仓库 工单",
}

// pairs are the ideographs by the two signs.
var pairs = map[[2]rune]term{}

// addForeign adds the words of other languages that mean nothing in English.
func addForeign() {
	for c, words := range foreign {
		for word := range strings.FieldsSeq(words) {
			if _, taken := terms[word]; !taken {
				terms[word] = term{kind: cue, cue: Cue(c)}
			}
		}
	}
	for c, words := range ideographs {
		for word := range strings.FieldsSeq(words) {
			a, n := utf8.DecodeRuneInString(word)
			b, _ := utf8.DecodeRuneInString(word[n:])
			pairs[[2]rune{a, b}] = term{kind: cue, cue: Cue(c)}
		}
	}
}
